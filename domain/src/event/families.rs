//! Fields that all events of a family have, and numbers that distinguish events of one type.

use super::stage::Stage;
use super::{
    EvaluationEvent, Event, ExperimentEvent, FeedbackEvent, OperatorEvent, PromptEvent, RoundEvent,
    TrainingEvent,
};
use crate::id::PromptId;

impl PromptEvent {
    /// The round.
    #[must_use]
    pub fn round(&self) -> u32 {
        match self {
            Self::Admitted(e) => e.round,
            Self::Sampled(e) => e.round,
            Self::Scored(e) => e.round,
            Self::Measured(e) => e.round,
            Self::SetAside(e) => e.round,
        }
    }

    /// The prompt.
    #[must_use]
    pub fn prompt_id(&self) -> &PromptId {
        match self {
            Self::Admitted(e) => &e.prompt.prompt_id,
            Self::Sampled(e) => &e.prompt.prompt_id,
            Self::Scored(e) => &e.prompt_id,
            Self::Measured(e) => &e.prompt_id,
            Self::SetAside(e) => &e.prompt_id,
        }
    }
}

impl RoundEvent {
    /// The round.
    #[must_use]
    pub fn round(&self) -> u32 {
        match self {
            Self::Opened(e) => e.round,
            Self::PairSelected(e) => e.round,
            Self::Evaluated(e) => e.round,
            Self::RewardHackingSuspected(e) => e.round,
            Self::StopDecided(e) => e.round,
            Self::Closed(e) => e.round,
        }
    }
}

impl FeedbackEvent {
    /// The round.
    #[must_use]
    pub fn round(&self) -> u32 {
        match self {
            Self::Requested(e) => e.round,
            Self::Received(e) => e.round,
            Self::Settled(e) => e.round,
        }
    }
}

impl TrainingEvent {
    /// The round.
    #[must_use]
    pub fn round(&self) -> u32 {
        match self {
            Self::Requested(e) => e.round,
            Self::Started(e) => e.round,
            Self::Progressed(e) => e.round,
            Self::LeaseExpired(e) => e.round,
            Self::RewardModelRefined(e) => e.round,
            Self::PolicyTuned(e) => e.round,
        }
    }

    /// The trained model.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Requested(e) => e.stage,
            Self::Started(e) => e.stage,
            Self::Progressed(e) => e.stage,
            Self::LeaseExpired(e) => e.stage,
            Self::RewardModelRefined(_) => Stage::Reward,
            Self::PolicyTuned(_) => Stage::Policy,
        }
    }
}

impl EvaluationEvent {
    /// The number of the evaluation.
    #[must_use]
    pub fn evaluation(&self) -> u32 {
        match self {
            Self::Requested(e) => e.evaluation,
            Self::PolicyEvaluated(e) => e.evaluation,
        }
    }
}

impl OperatorEvent {
    /// The number of the pause that begins or ends; `None` for a cancellation.
    pub(crate) fn pause(&self) -> Option<u32> {
        match self {
            Self::Paused(e) => Some(e.number),
            Self::Resumed(e) => Some(e.number),
            Self::Cancelled(_) => None,
        }
    }
}

impl Event {
    /// The round and the prompt that a step works on when it receives this event; `None` if it works on no
    /// single prompt.
    #[must_use]
    pub fn prompt(&self) -> Option<(u32, &PromptId)> {
        match self {
            Self::Prompt(e) => match e {
                PromptEvent::Admitted(_) | PromptEvent::Sampled(_) | PromptEvent::Scored(_) => {
                    Some((e.round(), e.prompt_id()))
                }
                PromptEvent::Measured(_) | PromptEvent::SetAside(_) => None,
            },
            Self::Experiment(_)
            | Self::Operator(_)
            | Self::Round(_)
            | Self::Feedback(_)
            | Self::Training(_)
            | Self::Evaluation(_) => None,
        }
    }

    /// The number of the event among those of its type with the same cause. `None`: such events are counted
    /// in the order of the stream.
    pub(crate) fn number(&self) -> Option<u32> {
        match self {
            Self::Experiment(ExperimentEvent::Forked(_)) | Self::Round(RoundEvent::PairSelected(_)) => None,
            Self::Operator(e) => Some(e.pause().unwrap_or(0)),
            Self::Prompt(PromptEvent::Admitted(e)) => Some(e.index),
            Self::Feedback(FeedbackEvent::Requested(e)) => Some(e.comparison),
            Self::Training(TrainingEvent::Progressed(e)) => Some(e.sequence),
            Self::Experiment(_)
            | Self::Round(_)
            | Self::Prompt(_)
            | Self::Feedback(_)
            | Self::Training(_)
            | Self::Evaluation(_) => Some(0),
        }
    }

    /// Whether the event is a conclusion: the round step derives it from the state alone.
    pub(crate) fn is_conclusion(&self) -> bool {
        match self {
            Self::Experiment(e) => match e {
                ExperimentEvent::Finished(_) => true,
                ExperimentEvent::Started(_) | ExperimentEvent::Forked(_) => false,
            },
            Self::Round(_) => true,
            Self::Feedback(e) => match e {
                FeedbackEvent::Requested(_) | FeedbackEvent::Settled(_) => true,
                FeedbackEvent::Received(_) => false,
            },
            Self::Training(e) => match e {
                TrainingEvent::Requested(_) => true,
                TrainingEvent::Started(_)
                | TrainingEvent::Progressed(_)
                | TrainingEvent::LeaseExpired(_)
                | TrainingEvent::RewardModelRefined(_)
                | TrainingEvent::PolicyTuned(_) => false,
            },
            Self::Evaluation(e) => match e {
                EvaluationEvent::Requested(_) => true,
                EvaluationEvent::PolicyEvaluated(_) => false,
            },
            Self::Operator(_) | Self::Prompt(_) => false,
        }
    }
}
