//! The part of a round after the conflict step: feedback on the selection, training of the reward model and
//! of the policy, and evaluation.

mod difference;
pub(crate) mod evaluation;
pub(crate) mod feedback;
mod guard;
pub(crate) mod training;

use serde::{Deserialize, Serialize};

pub use difference::{AgreementTable, Difference, HeldOutFigure, agreement_table, differences};
pub use evaluation::EvaluationRejection;
pub use feedback::{ANNOTATOR_BYTES_MAX, COMMENT_BYTES_MAX, ComparisonRejection, RequestedComparison};
pub use guard::{reward_hacking_signs, stop_reason};
pub use training::{LEASE_MS_MAX, Training, TrainingProgress, TrainingRejection};

use self::feedback::{RoundFeedback, settled_id};
use self::training::Trainings;
use crate::due::Due;
use crate::event::{EventId, FeedbackEvent, FeedbackRequested, FeedbackSettled, Stage, TrainingEvent};
use crate::plan::{FeedbackPlan, LearningPlan};

/// A version of a model in the course of an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelVersion {
    /// Fingerprint of the model, its adapter included.
    pub fingerprint: String,
    /// BLAKE3 of the adapter artifact; `None`: the model of the plan.
    pub adapter: Option<String>,
}

/// The state of a round after its conflict step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Learning {
    feedback: RoundFeedback,
    trainings: Trainings,
}

impl Learning {
    /// The requested comparisons, with their judgements.
    #[must_use]
    pub fn comparisons(&self) -> &[RequestedComparison] {
        self.feedback.comparisons()
    }

    /// Number of judgements so far.
    #[must_use]
    pub fn judgements(&self) -> u64 {
        self.feedback.judgements()
    }

    /// The summary of the feedback; `None` before it is settled.
    #[must_use]
    pub fn settled(&self) -> Option<&FeedbackSettled> {
        self.feedback.settled()
    }

    /// A training of this round.
    #[must_use]
    pub fn training(&self, stage: Stage) -> Option<&Training> {
        self.trainings.of(stage)
    }

    /// Whether comparisons wait for judgements.
    #[must_use]
    pub fn waits_for_feedback(&self, plan: &FeedbackPlan) -> bool {
        self.feedback.waits(plan)
    }

    /// The feedback with its rules.
    pub(crate) fn feedback(&self) -> &RoundFeedback {
        &self.feedback
    }

    /// The trainings with their rules.
    pub(crate) fn trainings(&self) -> &Trainings {
        &self.trainings
    }

    /// Applies an event of the feedback. `rewards` returns the rewards of a comparison's two completions.
    pub(crate) fn evolve_feedback(
        &mut self,
        event: &FeedbackEvent,
        rewards: impl FnOnce(&FeedbackRequested) -> [f64; 2],
    ) {
        self.feedback.evolve(event, rewards);
    }

    /// Applies an event of a training; `opened` is the id of the event that opened the round.
    pub(crate) fn evolve_training(&mut self, opened: EventId, event: &TrainingEvent) {
        self.trainings.evolve(settled_id(opened), event);
    }

    /// Returns the events that are due between feedback and evaluation; `None` while a result is pending.
    pub(crate) fn due(&self, plan: &LearningPlan, round: u32, opened: EventId) -> Option<Due> {
        let Some(settled) = self.feedback.settled() else {
            return self.feedback.due(&plan.feedback, round, opened);
        };
        match self.trainings.tuned() {
            Some(tuned) => Some(evaluation::due(tuned, round + 1)),
            None => self.trainings.due(round, settled_id(opened), settled.preferences > 0),
        }
    }
}
