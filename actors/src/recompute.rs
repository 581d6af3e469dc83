//! Computing a recorded experiment again: every model run that its events came from, in the order of the log, with neither broker nor
//! journal, and each result compared with the recorded one, byte for byte.
//!
//! It shows that a machine reproduces an experiment, and what the model runs alone cost. Trainings are done from their first
//! step, however often they were interrupted when they were recorded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dissent_domain::event::{Event, EventType, NewEvent, Recorded, Stage, StepName, follow_from};
use dissent_domain::event_ids::forked_id;
use dissent_domain::log::{EventLog, LogError};
use dissent_domain::plan::Plan;
use dissent_domain::replay::ReplayError;
use dissent_models::runtime::CancelFlag;
use dissent_storage::ArtifactId;

use crate::answered::answers;
use crate::crew::{self, ModelSteps, Resources};
use crate::journal::States;
use crate::model::fatal;
use crate::pipeline::PipelineError;
use crate::step::{self, AnyStep, Consequence, Received, StepError};
use crate::training::worker::{self, Workshop};
use crate::training::{Assignment, Watch};

/// Events read from the log at once.
const PAGE: usize = 1024;

/// What came of computing an experiment again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recomputed {
    /// By step, in the order of the pipeline.
    pub steps: BTreeMap<StepName, Tally>,
    /// The results that came out otherwise, in the order of the log.
    pub differences: Vec<Difference>,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Results that were computed again.
    pub results: u64,
    /// How many of them are the recorded ones, byte for byte.
    pub same: u64,
    /// Time in the step's model runs.
    pub took: Duration,
}

/// A result that came out otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The position of the recorded result.
    pub position: u64,
    /// Its type.
    pub event_type: String,
}

/// An experiment cannot be computed again.
#[derive(Debug, thiserror::Error)]
pub enum RecomputeError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The history does not make sense.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// What a step needs is not there.
    #[error(transparent)]
    Resources(#[from] PipelineError),
    /// A step cannot do its work here.
    #[error("the {} step failed: {reason}", step.name())]
    StepName {
        /// The step.
        step: StepName,
        /// Why.
        reason: StepError,
    },
}

/// Computes every recorded result of an experiment again, and tells `watch` after each event of its stream how far it is. In a
/// fork it begins with what the fork recorded itself: what it shares was drawn under the name of its origin.
///
/// # Errors
/// If the log cannot be read, a step cannot do its work here, or `resources` lack what a step needs.
pub fn recompute(
    plan: &Plan,
    resources: Resources,
    watch: &mut dyn FnMut(&Recorded, &Recomputed),
) -> Result<Recomputed, RecomputeError> {
    let states = States::default();
    let (shop, _, learning) = crew::split(plan, resources, &states);
    let ModelSteps { steps, workshop } = shop.model_steps(learning)?;
    let mut again = Recomputing {
        since: last_fork(&*shop.log, plan)?,
        waiting: steps.into_iter().map(|step| Waiting { step, batch: Vec::new() }).collect(),
        workshop,
        cancel: shop.cancel.clone(),
        log: shop.log.clone(),
        done: Recomputed::default(),
    };
    let mut version = 0;
    loop {
        let page = shop.log.read_stream(&plan.experiment, version, PAGE)?;
        let Some(last) = page.last() else { break };
        version = last.version;
        for recorded in &page {
            again.before(recorded)?;
            states.follow(recorded)?;
            again.after(recorded)?;
            watch(recorded, &again.done);
        }
    }
    again.flush()?;
    Ok(again.done)
}

/// The version of the event by which an experiment became a fork, the last time; 0 where it is none.
fn last_fork(log: &dyn EventLog, plan: &Plan) -> Result<u64, LogError> {
    let mut since = 0;
    for generation in 0.. {
        let Some(forked) = log.find(forked_id(&plan.experiment, generation))? else { break };
        since = forked.version;
    }
    Ok(since)
}

/// A step, and the events that it will be given together.
struct Waiting {
    step: Box<dyn AnyStep>,
    batch: Vec<Received>,
}

struct Recomputing {
    log: Arc<dyn EventLog>,
    /// Up to this version nothing is computed.
    since: u64,
    waiting: Vec<Waiting>,
    workshop: Option<Workshop>,
    cancel: CancelFlag,
    done: Recomputed,
}

impl Recomputing {
    /// Before the result of a training is known: what was asked of the models before it is computed, and it is.
    fn before(&mut self, recorded: &Recorded) -> Result<(), RecomputeError> {
        let kind = EventType::from_name(&recorded.event.event_type);
        if !matches!(kind, Some(EventType::RewardModelRefined | EventType::PolicyTuned)) {
            return Ok(());
        }
        self.flush()?;
        match assignment(&received(recorded)?) {
            Some(assignment) if recorded.version > self.since => self.train(&assignment),
            _ => Ok(()),
        }
    }

    /// Gives an event that was answered to the steps that answer it.
    fn after(&mut self, recorded: &Recorded) -> Result<(), RecomputeError> {
        let Some(kind) = EventType::from_name(&recorded.event.event_type) else { return Ok(()) };
        for place in 0..self.waiting.len() {
            if !self.waiting[place].step.consumes().contains(&kind) {
                continue;
            }
            let received = received(recorded)?;
            if !self.is_answered(&received)? {
                continue;
            }
            let Waiting { step, batch } = &mut self.waiting[place];
            batch.push(received);
            if batch.len() >= step.at_once() {
                self.perform(place)?;
            }
        }
        Ok(())
    }

    /// Whether there is a result to compare with.
    fn is_answered(&self, received: &Received) -> Result<bool, LogError> {
        for id in answers(received) {
            if self.log.find(id)?.is_some_and(|answer| answer.version > self.since) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn flush(&mut self) -> Result<(), RecomputeError> {
        (0..self.waiting.len()).try_for_each(|place| self.perform(place))
    }

    fn perform(&mut self, place: usize) -> Result<(), RecomputeError> {
        let Waiting { step, batch } = &mut self.waiting[place];
        if batch.is_empty() {
            return Ok(());
        }
        let (batch, name, begun) = (std::mem::take(batch), step.step(), Instant::now());
        let outcomes = step.consequences(&batch);
        self.tally(name).took += begun.elapsed();
        for (received, outcome) in batch.iter().zip(outcomes) {
            let events = match outcome {
                Ok(consequence) => consequence.events,
                Err(StepError::SetAside(reason)) => set_aside(received, name, reason)?,
                Err(StepError::Retry(reason)) => {
                    let said = self.given_up(received)?.filter(|said| said.ends_with(&reason));
                    set_aside(received, name, said.unwrap_or(reason))?
                }
                Err(reason) => return Err(RecomputeError::StepName { step: name, reason }),
            };
            self.compare(name, &Consequence { cause: received.id, events })?;
        }
        Ok(())
    }

    /// Why the prompt of an event was set aside, where it was: after several attempts it says how many, and then what failed.
    fn given_up(&self, received: &Received) -> Result<Option<String>, RecomputeError> {
        let id = received.id.caused(EventType::PromptSetAside.name(), 0);
        let Some(recorded) = self.log.find(id)? else { return Ok(None) };
        let event =
            recorded.decode().map_err(|source| ReplayError::Body { position: recorded.position, source })?;
        Ok(if let Event::PromptSetAside(aside) = event { Some(aside.reason) } else { None })
    }

    fn train(&mut self, assignment: &Assignment) -> Result<(), RecomputeError> {
        let failed = |reason| RecomputeError::StepName { step: StepName::Training, reason };
        let Some(workshop) = &mut self.workshop else { return Ok(()) };
        let begun = Instant::now();
        let mut watch = Watch::unwatched(self.cancel.clone());
        let learnt = workshop.learn(assignment, &mut watch).map_err(failed)?;
        let bytes = learnt.adapter.to_artifact().map_err(fatal).map_err(failed)?;
        let result = worker::result(assignment, ArtifactId::of(&bytes).to_string(), learnt);
        self.tally(StepName::Training).took += begun.elapsed();
        self.compare(StepName::Training, &Consequence { cause: assignment.requested, events: vec![result] })
    }

    /// Compares what follows now with what was recorded under the same ids.
    fn compare(&mut self, step: StepName, consequence: &Consequence) -> Result<(), RecomputeError> {
        let unreadable = |error: dissent_domain::event::CodecError| RecomputeError::StepName {
            step,
            reason: StepError::Fatal(error.to_string()),
        };
        let Consequence { cause, events } = consequence;
        for event in follow_from(*cause, step.name(), 0, events).map_err(unreadable)? {
            let recorded = self.log.find(event.id)?;
            let same = match &recorded {
                Some(recorded) => written_today(recorded).map_err(unreadable)?.body == event.body,
                None => false,
            };
            let tally = self.tally(step);
            tally.results += 1;
            tally.same += u64::from(same);
            if !same {
                let cause = || self.log.find(*cause).ok().flatten();
                let position = recorded.or_else(cause).map_or(0, |recorded| recorded.position);
                self.done.differences.push(Difference { position, event_type: event.event_type });
            }
        }
        Ok(())
    }

    fn tally(&mut self, step: StepName) -> &mut Tally {
        self.done.steps.entry(step).or_default()
    }
}

/// What comes of an event that a step cannot process; an error if it is of no prompt.
fn set_aside(received: &Received, step: StepName, reason: String) -> Result<Vec<Event>, RecomputeError> {
    match step::without_prompt(&received.event, step, &reason) {
        Some(event) => Ok(vec![event]),
        None => Err(RecomputeError::StepName { step, reason: StepError::Fatal(reason) }),
    }
}

fn received(recorded: &Recorded) -> Result<Received, RecomputeError> {
    let unreadable = |source| ReplayError::Body { position: recorded.position, source };
    let event = recorded.decode().map_err(unreadable)?;
    Ok(Received { id: recorded.event.id, causation: recorded.event.causation, event })
}

/// A recorded event as it would be written now, where its schema has changed.
fn written_today(recorded: &Recorded) -> Result<NewEvent, dissent_domain::event::CodecError> {
    let NewEvent { id, causation, actor, time_us, .. } = &recorded.event;
    NewEvent::new(*id, *causation, actor, *time_us, &recorded.decode()?)
}

/// The training that ended with this, from its first step.
fn assignment(result: &Received) -> Option<Assignment> {
    let (round, stage, attempt) = if let Event::RewardModelRefined(e) = &result.event {
        (e.round, Stage::Reward, e.attempt)
    } else if let Event::PolicyTuned(e) = &result.event {
        (e.round, Stage::Policy, e.attempt)
    } else {
        return None;
    };
    let requested = result.causation?;
    Some(Assignment {
        round,
        stage,
        attempt,
        requested,
        checkpoint: None,
        ends: Arc::default(),
        span: tracing::Span::none(),
    })
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::{EvaluationRequested, EventId, PromptAdmitted, PromptSetAside};
    use dissent_domain::id::{ExperimentId, PromptId};
    use dissent_domain::log::{Append, ExpectedVersion};
    use dissent_domain::prompt::Prompt;
    use dissent_storage::{MemoryLog, wait};

    use super::*;
    use crate::step::Perform;

    /// A step whose model never runs.
    struct Failing;

    impl Perform for Failing {
        const STEP: StepName = StepName::Generation;
        const CONSUMES: &'static [EventType] = &[EventType::PromptAdmitted, EventType::EvaluationRequested];

        fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
            batch.iter().map(|_| Err(StepError::Retry("no memory".to_owned()))).collect()
        }
    }

    fn experiment() -> ExperimentId {
        ExperimentId::new("e").unwrap()
    }

    /// Computes the answer to an event again, in a log that has this event alone, and its prompt set aside for this reason.
    fn again(event: Event, reason: &str) -> Result<Recomputed, RecomputeError> {
        let log = Arc::new(MemoryLog::new());
        let start = EventId::of_experiment(&experiment());
        let aside = PromptSetAside {
            round: 0,
            prompt_id: PromptId::new("p").unwrap(),
            step: StepName::Generation,
            reason: reason.to_owned(),
        };
        let answer = follow_from(start, "generation", 0, &[aside.into()]).unwrap();
        let append = Append { experiment: experiment(), expected: ExpectedVersion::Any, events: answer };
        wait(log.append(append)).unwrap();
        let received = Received { id: start, causation: None, event };
        let mut again = Recomputing {
            log,
            since: 0,
            waiting: vec![Waiting { step: Box::new(Failing), batch: vec![received] }],
            workshop: None,
            cancel: CancelFlag::new(),
            done: Recomputed::default(),
        };
        again.flush()?;
        Ok(again.done)
    }

    fn admitted() -> Event {
        let prompt =
            Prompt { prompt_id: PromptId::new("p").unwrap(), text: "why?".to_owned(), category: None };
        PromptAdmitted { round: 0, index: 0, prompt }.into()
    }

    #[test]
    fn what_fails_as_it_did_when_its_prompt_was_set_aside_comes_out_the_same() {
        let same = again(admitted(), "gave up after 3 attempts: no memory").unwrap();
        assert_eq!((same.steps[&StepName::Generation].same, same.differences.len()), (1, 0));
        let other = again(admitted(), "gave up after 3 attempts: no disk").unwrap();
        assert_eq!((other.steps[&StepName::Generation].same, other.differences.len()), (0, 1));
    }

    #[test]
    fn what_fails_and_is_of_no_prompt_is_an_error() {
        let error = again(EvaluationRequested { evaluation: 0 }.into(), "").unwrap_err();
        assert!(error.to_string().contains("no memory"), "{error}");
    }
}
