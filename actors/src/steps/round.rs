//! The round step: opens rounds, concludes their phases and finishes the experiment.
//!
//! It consumes the events after which something may be due, including its own: one conclusion may make the
//! next due. It asks the state, never a clock, what is due. A due event has the same identity whichever event
//! made it due: asking twice changes nothing.

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
        // One question serves the whole batch: the answer depends on the state, not on each event.
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
