//! The round step: opens rounds, concludes their phases and finishes the experiment.
//!
//! It consumes every event after which another may be due, including its own: one conclusion may make the
//! next one due. The state tells the due events, without a clock. A due event has the same id after each
//! cause, so a repeated proposal changes nothing.

use dissent_domain::event::StepName;
use dissent_domain::id::ExperimentId;

use crate::error::StepError;
use crate::runner::step::{AnyStep, Consequence, Received};
use crate::state::States;

/// Proposes the events that the rules of the experiment make due.
pub(crate) struct RoundStep {
    states: States,
    experiment: ExperimentId,
}

impl RoundStep {
    pub(crate) fn new(states: States, experiment: ExperimentId) -> Self {
        Self { states, experiment }
    }
}

impl AnyStep for RoundStep {
    fn name(&self) -> StepName {
        StepName::Round
    }

    fn batch(&self) -> usize {
        64
    }

    fn handle_events(&mut self, batch: Vec<Received>) -> Vec<Result<Consequence, StepError>> {
        // Looked up once for the whole batch: the due events depend on the state, not on single events.
        let mut due = self.states.due(&self.experiment);
        batch
            .iter()
            .map(|received| {
                Ok(match due.take() {
                    Some(due) => Consequence { cause: due.cause, events: due.events },
                    None => received.leads_to([]),
                })
            })
            .collect()
    }
}
