//! A wrapper of a step that skips events whose results are in the log.
//!
//! Answered events are redelivered after a crash, in a fork, and by a new broker over an imported, restored
//! or rotated log. The journal would recognise the result by its id, but the result may take hours to
//! compute.

use std::sync::Arc;

use dissent_domain::event::StepName;
use dissent_domain::log::EventLog;

use super::spec::StepSpec;
use super::step::{AnyStep, Consequence, Received};
use crate::error::{StepError, StepFault};

/// A step that only receives events without a recorded result.
pub(crate) struct SkipRecorded<S> {
    step: S,
    spec: &'static StepSpec,
    log: Arc<dyn EventLog>,
}

impl<S: AnyStep> SkipRecorded<S> {
    pub(crate) fn new(step: S, spec: &'static StepSpec, log: Arc<dyn EventLog>) -> Self {
        Self { step, spec, log }
    }

    fn is_unanswered(&self, received: &Received) -> Result<bool, StepError> {
        for id in self.spec.result_ids(received.id) {
            // The log finds durable events only: an accepted one may still be lost, so its cause must not be
            // acknowledged.
            if self.log.find(id).map_err(StepError::fatal)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<S: AnyStep> AnyStep for SkipRecorded<S> {
    fn name(&self) -> StepName {
        self.step.name()
    }

    fn batch(&self) -> usize {
        self.step.batch()
    }

    fn handle_events(&mut self, batch: Vec<Received>) -> Vec<Result<Consequence, StepError>> {
        let (mut unanswered, mut outcomes) = (Vec::new(), Vec::new());
        for received in batch {
            outcomes.push(match self.is_unanswered(&received) {
                Ok(true) => {
                    unanswered.push(received);
                    None
                }
                Ok(false) => Some(Ok(received.leads_to([]))),
                Err(error) => Some(Err(error)),
            });
        }
        let handled = if unanswered.is_empty() { Vec::new() } else { self.step.handle_events(unanswered) };
        let mut handled = handled.into_iter();
        let missing = || Err(StepError::fatal(StepFault::OutcomeCount));
        let outcome = |known: Option<_>| known.or_else(|| handled.next()).unwrap_or_else(missing);
        outcomes.into_iter().map(outcome).collect()
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::{EvaluationRequested, Event, EventId, EventType, NewEvent, RoundClosed};
    use dissent_domain::id::ExperimentId;
    use dissent_domain::log::{Append, ExpectedVersion};
    use dissent_storage::{MemoryLog, wait};

    use super::*;
    use crate::runner::spec::Presence;
    use crate::runner::step::Step;

    static SPEC: StepSpec = StepSpec {
        name: StepName::Evaluation,
        consumes: &[EventType::EvaluationRequested],
        emits: &[EventType::PolicyEvaluated],
        presence: Presence::Always,
        begins_trace: false,
        is_role: true,
        skips_recorded: true,
    };

    /// Records the evaluations that it handles.
    #[derive(Default)]
    struct Evaluations(Vec<u32>);

    impl Step for Evaluations {
        const NAME: StepName = StepName::Evaluation;
        type Input = EvaluationRequested;

        fn handle(&mut self, received: &Received<EvaluationRequested>) -> Result<Consequence, StepError> {
            let round = received.event.evaluation;
            self.0.push(round);
            Ok(received.leads_to([RoundClosed { round }.into()]))
        }
    }

    #[test]
    fn recorded_results_are_skipped_and_outcomes_stay_in_order() {
        let experiment = ExperimentId::new("e").unwrap();
        let start = EventId::of_experiment(&experiment);
        let received = |evaluation: u32| Received {
            id: start.caused("test", evaluation),
            causation: Some(start),
            event: EvaluationRequested { evaluation }.into(),
        };
        let log = Arc::new(MemoryLog::new());
        let id = received(1).id.caused(EventType::PolicyEvaluated.name(), 0);
        let answer = NewEvent::new(id, None, "test", 0, &RoundClosed { round: 0 }.into()).unwrap();
        wait(log.append(Append { experiment, expected: ExpectedVersion::Any, events: vec![answer] }))
            .unwrap();

        let mut step = SkipRecorded::new(Evaluations::default(), &SPEC, log);
        let outcomes = step.handle_events(vec![received(0), received(1), received(2)]);
        assert_eq!(step.step.0, [0, 2]);
        let closed: Vec<Vec<Event>> = outcomes.into_iter().map(|outcome| outcome.unwrap().events).collect();
        let of = |round: u32| vec![RoundClosed { round }.into()];
        assert_eq!(closed, [of(0), Vec::new(), of(2)]);
    }
}
