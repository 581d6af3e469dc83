//! A step around another one that computes nothing anew that the log has the answer to.
//!
//! Events come again: after a crash, where a broker begins anew with a log that was imported, restored or rotated, and where an
//! experiment shares the past of another. The answer would be known by its id and dropped; but it may have taken hours.

use std::sync::Arc;

use dissent_domain::event::{Event, EventId, EventType, StepName};
use dissent_domain::feedback::ORACLE_ANNOTATOR;
use dissent_domain::log::EventLog;

use crate::model::fatal;
use crate::step::{Consequence, Perform, Received, StepError, follows};

/// A step that is only given what waits for an answer.
pub(crate) struct Unanswered<P> {
    step: P,
    log: Arc<dyn EventLog>,
}

impl<P> Unanswered<P> {
    pub(crate) fn new(step: P, log: Arc<dyn EventLog>) -> Self {
        Self { step, log }
    }

    fn waits(&self, received: &Received) -> Result<bool, StepError> {
        for id in answers(received) {
            // Only what is durable is found: what is merely decided may still be lost, and must not be acknowledged.
            if self.log.find(id).map_err(fatal)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The ids of the events by which this one is answered.
pub(crate) fn answers(received: &Received) -> Vec<EventId> {
    let caused = |kind: EventType| received.id.caused(kind.name(), 0);
    if let Event::PromptAdmitted(_) = &received.event {
        vec![caused(EventType::CompletionsSampled), caused(EventType::PromptSetAside)]
    } else if let Event::CompletionsSampled(_) = &received.event {
        vec![caused(EventType::RewardsScored), caused(EventType::PromptSetAside)]
    } else if let Event::EvaluationRequested(_) = &received.event {
        vec![caused(EventType::PolicyEvaluated)]
    } else if let Event::FeedbackRequested(_) = &received.event {
        vec![received.id.judged_by(ORACLE_ANNOTATOR)]
    } else {
        Vec::new()
    }
}

impl<P: Perform> Perform for Unanswered<P> {
    const STEP: StepName = P::STEP;
    const CONSUMES: &'static [EventType] = P::CONSUMES;

    fn batch(&self) -> usize {
        self.step.batch()
    }

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        let waits: Vec<Result<bool, StepError>> = batch.iter().map(|received| self.waits(received)).collect();
        let waiting: Vec<Received> = batch
            .iter()
            .zip(&waits)
            .filter(|(_, waits)| matches!(waits, Ok(true)))
            .map(|(received, _)| received.clone())
            .collect();
        let mut performed =
            if waiting.is_empty() { Vec::new() } else { self.step.perform(&waiting) }.into_iter();
        let mut next = || {
            let missing = || Err(StepError::Fatal("it answered fewer events than it was given".to_owned()));
            performed.next().unwrap_or_else(missing)
        };
        let outcome = |(received, waits): (&Received, Result<bool, StepError>)| {
            if waits? { next() } else { Ok(follows(received, [])) }
        };
        batch.iter().zip(waits).map(outcome).collect()
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::{EvaluationRequested, NewEvent, RoundClosed};
    use dissent_domain::id::ExperimentId;
    use dissent_domain::log::{Append, ExpectedVersion};
    use dissent_storage::{MemoryLog, wait};

    use super::*;

    /// Says which evaluations it was asked for.
    #[derive(Default)]
    struct Asked(Vec<u32>);

    impl Perform for Asked {
        const STEP: StepName = StepName::Evaluation;
        const CONSUMES: &'static [EventType] = &[EventType::EvaluationRequested];

        fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
            let mut answer = |received: &Received| {
                let Event::EvaluationRequested(e) = &received.event else { unreachable!() };
                self.0.push(e.evaluation);
                Ok(follows(received, [RoundClosed { round: e.evaluation }.into()]))
            };
            batch.iter().map(&mut answer).collect()
        }
    }

    #[test]
    fn only_what_has_no_answer_in_the_log_is_computed_and_outcomes_stay_in_order() {
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

        let mut step = Unanswered::new(Asked::default(), log);
        let outcomes = step.perform(&[received(0), received(1), received(2)]);
        assert_eq!(step.step.0, [0, 2]);
        let closed: Vec<Vec<Event>> = outcomes.into_iter().map(|outcome| outcome.unwrap().events).collect();
        let of = |round: u32| vec![RoundClosed { round }.into()];
        assert_eq!(closed, [of(0), Vec::new(), of(2)]);
    }
}
