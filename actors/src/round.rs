//! The coordinator: opens rounds, closes them with their selection, and finishes the experiment.
//!
//! It consumes the events after which something may be due, its own among them (one may make the next due), and asks the
//! state — never a clock — whether it is. What is due has the same identity whichever event made it so: asking twice changes nothing.

use dissent_domain::event::{EventType, StepName};
use dissent_domain::id::ExperimentId;

use crate::journal::States;
use crate::step::{Consequence, Perform, Received, StepError, follows};

/// Proposes what the rules of the experiment make due.
pub(crate) struct Coordinator {
    states: States,
    experiment: ExperimentId,
}

impl Coordinator {
    pub(crate) fn new(states: States, experiment: ExperimentId) -> Self {
        Self { states, experiment }
    }
}

impl Perform for Coordinator {
    const STEP: StepName = StepName::Round;
    const CONSUMES: &'static [EventType] = &[
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
    ];

    fn batch(&self) -> usize {
        64
    }

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        // One answer serves the whole batch: it is about the state now, not about each event.
        let mut due = self.states.due(&self.experiment);
        batch
            .iter()
            .map(|received| {
                Ok(match due.take() {
                    Some(due) => Consequence { cause: due.cause, events: due.events },
                    None => follows(received, []),
                })
            })
            .collect()
    }
}
