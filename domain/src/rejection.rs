//! Reasons why the rules reject an event, by kind.

use crate::event::{CodecError, EventId, EventType, Stage};
use crate::id::PromptId;
use crate::learning::{ComparisonRejection, EvaluationRejection, TrainingRejection};
use crate::round::PromptRejection;

/// Reason why a proposed event may not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The experiment has not started.
    #[error("the experiment has not started")]
    NotStarted,
    /// The experiment has already started.
    #[error("the experiment has already started")]
    AlreadyStarted,
    /// The experiment is finished.
    #[error("the experiment is finished")]
    Finished,
    /// The experiment was cancelled.
    #[error("the experiment was cancelled")]
    Cancelled,
    /// The experiment is paused, and the event would begin new work.
    #[error("the experiment is paused")]
    Paused,
    /// A running experiment cannot become a fork.
    #[error("a running experiment cannot become a fork")]
    NotAFork,
    /// Only operators cause this event; a step proposed it.
    #[error("only an operator command causes this event, not a step")]
    NotAStep,
    /// The round is not open.
    #[error("round {round} is not the open round")]
    RoundNotOpen {
        /// The round.
        round: u32,
    },
    /// The state of the prompt does not allow the event.
    #[error("prompt {prompt_id}: {reason}")]
    Prompt {
        /// The prompt.
        prompt_id: PromptId,
        /// The reason.
        reason: PromptRejection,
    },
    /// The state of the comparison does not allow the judgement.
    #[error("comparison {comparison} of round {round}: {reason}")]
    Comparison {
        /// The round.
        round: u32,
        /// The comparison.
        comparison: u32,
        /// The reason.
        reason: ComparisonRejection,
    },
    /// The state of the training does not allow the event.
    #[error("the training of the {} in round {round}: {reason}", stage.name())]
    Training {
        /// The round.
        round: u32,
        /// The trained model.
        stage: Stage,
        /// The reason.
        reason: TrainingRejection,
    },
    /// The state of the evaluation does not allow the event.
    #[error("evaluation {evaluation}: {reason}")]
    Evaluation {
        /// Its number.
        evaluation: u32,
        /// The reason.
        reason: EvaluationRejection,
    },
    /// A setting of a fork contradicts the shared history.
    #[error("a fork at this position cannot change {key}: {reason}")]
    Fork {
        /// The setting, as in the configuration.
        key: &'static str,
        /// The reason.
        reason: ForkRejection,
    },
    /// The state does not allow the operator command.
    #[error(transparent)]
    Command(#[from] CommandRejection),
    /// A conclusion is not due, or has another cause or id.
    #[error("the events are not those that are due")]
    NotDue,
    /// A conclusion is due, after another one that is missing.
    #[error("another event is due first")]
    NotNext,
    /// The events may not be proposed together.
    #[error("only distinct prompts may be proposed together")]
    NotTogether,
    /// The start names another experiment than its stream, or has a cause.
    #[error("the event starts another experiment")]
    OtherExperiment,
    /// No recorded event can cause the event.
    #[error("{} has no cause in the current state", event_type.name())]
    NoCause {
        /// Its type.
        event_type: EventType,
    },
    /// The event has another cause or id than the rules derive.
    #[error("{} must have the cause {cause} and the id {id}, not the id {found}", event_type.name())]
    WrongCause {
        /// Its type.
        event_type: EventType,
        /// The one possible cause.
        cause: EventId,
        /// The id derived from that cause.
        id: EventId,
        /// The proposed id.
        found: EventId,
    },
    /// The body cannot be read.
    #[error(transparent)]
    Body(#[from] CodecError),
}

/// Reason why a fork cannot change a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForkRejection {
    /// No fork can change it.
    #[error("the shared history depends on it")]
    Always,
    /// The open round has completions.
    #[error("completions of the open round are recorded")]
    Sampled,
    /// The open round has a selection.
    #[error("the selection of the open round is recorded")]
    Selected,
    /// The open round has comparisons.
    #[error("the comparisons of the open round are recorded")]
    ComparisonsRequested,
    /// The open round has its feedback.
    #[error("the feedback of the open round is settled")]
    FeedbackSettled,
    /// The open round trains its reward model, or has trained it.
    #[error("the training of the reward model uses it")]
    RewardModelTrained,
    /// The open round trains its policy, or has trained it.
    #[error("the training of the policy uses it")]
    PolicyTrained,
    /// Evaluations must stay comparable.
    #[error("recorded evaluations used it, and later ones are compared with them")]
    Evaluated,
    /// The plan has fewer rounds than the history.
    #[error("the history has more rounds")]
    FewerRounds,
}

/// Reason why an operator command may not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandRejection {
    /// A start does not end a later pause.
    #[error("the experiment was started before and is paused: resume it")]
    StartedBefore,
    /// The pause is not the next one.
    #[error("the experiment is already paused, or this pause is over")]
    AlreadyPaused,
    /// The pause is not the current one.
    #[error("this pause is not the current one")]
    OtherPause,
    /// The operator's name is longer than [`BY_BYTES_MAX`](crate::operator::BY_BYTES_MAX).
    #[error("the operator's name is longer than 256 bytes")]
    OperatorTooLong,
    /// The reason is longer than [`REASON_BYTES_MAX`](crate::operator::REASON_BYTES_MAX).
    #[error("the reason is longer than 2 KiB")]
    ReasonTooLong,
    /// The event cannot be encoded.
    #[error("the command cannot be encoded")]
    NotEncodable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_name_the_subject_and_the_reason() {
        let prompt_id = PromptId::new("p").unwrap();
        let (round, stage, comparison, evaluation) = (1, Stage::Policy, 2, 3);
        for (rejection, text) in [
            (Rejection::RoundNotOpen { round }, "round 1 is not the open round"),
            (
                Rejection::Prompt { prompt_id, reason: PromptRejection::NoRewardsPending },
                "prompt p: no rewards are pending",
            ),
            (
                Rejection::Comparison { round, comparison, reason: ComparisonRejection::AlreadyJudged },
                "comparison 2 of round 1: the annotator has already judged it",
            ),
            (
                Rejection::Training { round, stage, reason: TrainingRejection::NoLease },
                "the training of the policy in round 1: no worker has a lease on it",
            ),
            (
                Rejection::Evaluation { evaluation, reason: EvaluationRejection::NotPending },
                "evaluation 3: no evaluation with this number is pending",
            ),
            (
                Rejection::Fork { key: "tuning", reason: ForkRejection::PolicyTrained },
                "a fork at this position cannot change tuning: the training of the policy uses it",
            ),
            (CommandRejection::OtherPause.into(), "this pause is not the current one"),
            (
                Rejection::NoCause { event_type: EventType::FeedbackReceived },
                "feedback.received has no cause in the current state",
            ),
            (
                CodecError::UnknownType("a.b".to_owned()).into(),
                "unknown event type \"a.b\": use the newer version of dissent that wrote the log",
            ),
        ] {
            assert_eq!(rejection.to_string(), text);
        }
    }
}
