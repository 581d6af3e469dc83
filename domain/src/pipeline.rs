//! The pipeline: the events that each step consumes and emits.
//!
//! Judgements of people and operator commands come from outside the pipeline.

use crate::event::{EventType, StepName};

impl StepName {
    /// The events that the step consumes.
    #[must_use]
    pub const fn consumes(self) -> &'static [EventType] {
        match self {
            Self::Prompt => &[EventType::RoundOpened],
            Self::Generation => &[EventType::PromptAdmitted],
            Self::Reward => &[EventType::CompletionsSampled],
            Self::Conflict => &[EventType::RewardsScored],
            Self::Round => &[
                EventType::ExperimentStarted,
                EventType::ExperimentResumed,
                EventType::RoundOpened,
                EventType::ConflictMeasured,
                EventType::PromptSetAside,
                EventType::RoundEvaluated,
                EventType::FeedbackReceived,
                EventType::FeedbackSettled,
                EventType::TrainingLeaseExpired,
                EventType::RewardModelRefined,
                EventType::PolicyTuned,
                EventType::EvaluationRequested,
                EventType::PolicyEvaluated,
                EventType::RoundClosed,
            ],
            Self::Feedback => &[EventType::FeedbackRequested],
            Self::Training => &[EventType::TrainingRequested],
            Self::Evaluation => &[EventType::EvaluationRequested],
        }
    }

    /// The events that the step emits.
    #[must_use]
    pub const fn emits(self) -> &'static [EventType] {
        match self {
            Self::Prompt => &[EventType::PromptAdmitted],
            Self::Generation => &[EventType::CompletionsSampled, EventType::PromptSetAside],
            Self::Reward => &[EventType::RewardsScored, EventType::PromptSetAside],
            Self::Conflict => &[EventType::ConflictMeasured, EventType::PromptSetAside],
            Self::Round => &[
                EventType::RoundOpened,
                EventType::PairSelected,
                EventType::RoundEvaluated,
                EventType::FeedbackRequested,
                EventType::FeedbackSettled,
                EventType::TrainingRequested,
                EventType::EvaluationRequested,
                EventType::RewardHackingSuspected,
                EventType::StopDecided,
                EventType::RoundClosed,
                EventType::ExperimentFinished,
            ],
            Self::Feedback => &[EventType::FeedbackReceived],
            Self::Training => &[
                EventType::TrainingStarted,
                EventType::TrainingProgressed,
                EventType::TrainingLeaseExpired,
                EventType::RewardModelRefined,
                EventType::PolicyTuned,
            ],
            Self::Evaluation => &[EventType::PolicyEvaluated],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_emitted_by_a_step_or_comes_from_outside() {
        let outside = [
            EventType::ExperimentStarted,
            EventType::ExperimentForked,
            EventType::ExperimentPaused,
            EventType::ExperimentResumed,
            EventType::ExperimentCancelled,
        ];
        for kind in EventType::ALL {
            let is_emitted = StepName::ALL.iter().any(|step| step.emits().contains(kind));
            assert_ne!(is_emitted, outside.contains(kind), "{}", kind.name());
        }
    }
}
