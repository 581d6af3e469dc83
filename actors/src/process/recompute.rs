//! Recomputes a recorded experiment. It repeats every model run in the order of the log, without broker and
//! journal. It compares each result with the recorded one, byte for byte.
//!
//! The comparison shows whether a machine reproduces an experiment, and the cost of the model runs alone. A
//! training runs from its first step without interruption, even if the recorded one was interrupted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dissent_domain::event::{
    CodecError, Event, EventType, NewEvent, PolicyTuned, PromptSetAside, Recorded, RewardModelRefined, Stage,
    StepName, follow_from,
};
use dissent_domain::event_ids::forked_id;
use dissent_domain::log::{EventLog, LogError};
use dissent_domain::plan::Plan;
use dissent_domain::replay::ReplayError;
use dissent_models::runtime::CancelFlag;
use dissent_storage::ArtifactId;

use super::resources::Resources;
use super::step_set::{self, ModelSteps};
use crate::error::{PipelineError, StepError, StepFault};
use crate::runner::propose::without_prompt;
use crate::runner::spec::StepSpec;
use crate::runner::step::{AnyStep, Consequence, Received};
use crate::state::States;
use crate::steps;
use crate::steps::training::assignment::Assignment;
use crate::steps::training::thread::{self, TrainingInputs};
use crate::steps::training::trainer::TrainingWatch;

/// Events read from the log at once.
const PAGE: usize = 1024;

/// The outcome of recomputing an experiment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recomputed {
    /// By step, in the order of the pipeline.
    pub steps: BTreeMap<StepName, Tally>,
    /// The results that differ, in the order of the log.
    pub differences: Vec<Difference>,
}

/// The recomputed results of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Recomputed results.
    pub results: u64,
    /// Results equal to the recorded ones, byte for byte.
    pub same: u64,
    /// Time in the model runs of the step.
    pub took: Duration,
}

/// A result that differs from the recorded one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The position of the recorded result.
    pub position: u64,
    /// Its type.
    pub event_type: String,
}

/// Why an experiment cannot be recomputed.
#[derive(Debug, thiserror::Error)]
pub enum RecomputeError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The history cannot be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A resource that a step needs is missing.
    #[error(transparent)]
    Resources(#[from] PipelineError),
    /// A step failed.
    #[error("the {} step failed", step.name())]
    Step {
        /// The step.
        step: StepName,
        /// The cause.
        source: StepError,
    },
}

/// Recomputes every recorded result of an experiment, and calls `watch` after each event of its stream. A
/// fork is recomputed from its own first event: the shared ones were sampled under the name of the origin.
///
/// # Errors
/// If the log cannot be read, a step fails, or `resources` lack something that a step needs.
pub fn recompute(
    plan: &Plan,
    resources: Resources,
    watch: &mut dyn FnMut(&Recorded, &Recomputed),
) -> Result<Recomputed, RecomputeError> {
    let states = States::default();
    let (builder, _, learning) = step_set::split(plan, resources, &states);
    let ModelSteps { steps, inputs } = builder.model_steps(learning)?;
    let mut again = Recomputing {
        since: last_fork(&*builder.log, plan)?,
        waiting: steps.into_iter().map(|step| Waiting { step, batch: Vec::new() }).collect(),
        inputs,
        cancel: builder.cancel.clone(),
        log: builder.log.clone(),
        done: Recomputed::default(),
    };
    let mut version = 0;
    loop {
        let page = builder.log.read_stream(&plan.experiment, version, PAGE)?;
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

/// The version of the event by which an experiment last became a fork; 0 if it is not a fork.
fn last_fork(log: &dyn EventLog, plan: &Plan) -> Result<u64, LogError> {
    let mut since = 0;
    for generation in 0.. {
        let Some(forked) = log.find(forked_id(&plan.experiment, generation))? else { break };
        since = forked.version;
    }
    Ok(since)
}

/// A step and its next batch.
struct Waiting {
    step: Box<dyn AnyStep>,
    batch: Vec<Received>,
}

struct Recomputing {
    log: Arc<dyn EventLog>,
    /// Events up to this version are not recomputed.
    since: u64,
    waiting: Vec<Waiting>,
    inputs: Option<TrainingInputs>,
    cancel: CancelFlag,
    done: Recomputed,
}

impl Recomputing {
    /// Before the result of a training is applied: runs the waiting batches and the training.
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

    /// Adds an event with a recorded result to the batch of its step.
    fn after(&mut self, recorded: &Recorded) -> Result<(), RecomputeError> {
        let Some(kind) = EventType::from_name(&recorded.event.event_type) else { return Ok(()) };
        for index in 0..self.waiting.len() {
            let spec = steps::spec(self.waiting[index].step.name());
            if !spec.consumes.contains(&kind) {
                continue;
            }
            let received = received(recorded)?;
            if !self.is_answered(spec, &received)? {
                continue;
            }
            let Waiting { step, batch } = &mut self.waiting[index];
            batch.push(received);
            if batch.len() >= step.batch() {
                self.run_batch(index)?;
            }
        }
        Ok(())
    }

    /// Whether the log has a result to compare with.
    fn is_answered(&self, spec: &StepSpec, received: &Received) -> Result<bool, LogError> {
        for id in spec.result_ids(received.id) {
            if self.log.find(id)?.is_some_and(|answer| answer.version > self.since) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn flush(&mut self) -> Result<(), RecomputeError> {
        (0..self.waiting.len()).try_for_each(|index| self.run_batch(index))
    }

    fn run_batch(&mut self, index: usize) -> Result<(), RecomputeError> {
        let Waiting { step, batch } = &mut self.waiting[index];
        if batch.is_empty() {
            return Ok(());
        }
        let (batch, name, begun) = (std::mem::take(batch), step.name(), Instant::now());
        let outcomes = step.handle_events(batch.clone());
        self.tally(name).took += begun.elapsed();
        for (received, outcome) in batch.iter().zip(outcomes) {
            let events = match outcome {
                Ok(consequence) => consequence.events,
                Err(StepError::SetAside(fault)) => set_aside(received, name, fault.to_string(), fault)?,
                Err(StepError::Retry(fault)) => {
                    let reason = fault.to_string();
                    let recorded = self.given_up(received)?.filter(|recorded| recorded.ends_with(&reason));
                    set_aside(received, name, recorded.unwrap_or(reason), fault)?
                }
                Err(source) => return Err(RecomputeError::Step { step: name, source }),
            };
            self.compare(name, &Consequence { cause: received.id, events })?;
        }
        Ok(())
    }

    /// The recorded reason for which the prompt of an event was set aside, if it was. The reason begins with
    /// the number of attempts.
    fn given_up(&self, received: &Received) -> Result<Option<String>, RecomputeError> {
        let id = received.id.caused(EventType::PromptSetAside.name(), 0);
        let Some(recorded) = self.log.find(id)? else { return Ok(None) };
        let event =
            recorded.decode().map_err(|source| ReplayError::Body { position: recorded.position, source })?;
        Ok(PromptSetAside::try_from(event).ok().map(|aside| aside.reason))
    }

    fn train(&mut self, assignment: &Assignment) -> Result<(), RecomputeError> {
        let failed = |source| RecomputeError::Step { step: StepName::Training, source };
        let Some(inputs) = &mut self.inputs else { return Ok(()) };
        let begun = Instant::now();
        let mut watch = TrainingWatch::unwatched(self.cancel.clone());
        let trained = inputs.train(assignment, &mut watch).map_err(failed)?;
        let bytes = trained.adapter.to_artifact().map_err(StepError::fatal).map_err(failed)?;
        let result = thread::result(assignment, ArtifactId::of(&bytes).to_string(), trained);
        self.tally(StepName::Training).took += begun.elapsed();
        self.compare(StepName::Training, &Consequence { cause: assignment.requested, events: vec![result] })
    }

    /// Compares a consequence with the events recorded under the same ids.
    fn compare(&mut self, step: StepName, consequence: &Consequence) -> Result<(), RecomputeError> {
        let unreadable = |error: CodecError| RecomputeError::Step { step, source: StepError::fatal(error) };
        let Consequence { cause, events } = consequence;
        for event in follow_from(*cause, step.name(), 0, events).map_err(unreadable)? {
            let recorded = self.log.find(event.id)?;
            let same = match &recorded {
                Some(recorded) => in_current_schema(recorded).map_err(unreadable)?.body == event.body,
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

/// The consequence of an event that a step cannot handle; an error if the event has no prompt.
fn set_aside(
    received: &Received,
    step: StepName,
    reason: String,
    fault: StepFault,
) -> Result<Vec<Event>, RecomputeError> {
    match without_prompt(&received.event, step, &reason) {
        Some(event) => Ok(vec![event]),
        None => Err(RecomputeError::Step { step, source: StepError::Fatal(fault) }),
    }
}

fn received(recorded: &Recorded) -> Result<Received, RecomputeError> {
    let unreadable = |source| ReplayError::Body { position: recorded.position, source };
    let event = recorded.decode().map_err(unreadable)?;
    Ok(Received { id: recorded.event.id, causation: recorded.event.causation, event })
}

/// A recorded event in the current version of its schema.
fn in_current_schema(recorded: &Recorded) -> Result<NewEvent, CodecError> {
    let NewEvent { id, causation, actor, time_us, .. } = &recorded.event;
    NewEvent::new(*id, *causation, actor, *time_us, &recorded.decode()?)
}

/// The training of a result, from its first step.
fn assignment(result: &Received) -> Option<Assignment> {
    let refined = result.event.body().map(|e: &RewardModelRefined| (e.round, Stage::Reward, e.attempt));
    let tuned = || result.event.body().map(|e: &PolicyTuned| (e.round, Stage::Policy, e.attempt));
    let (round, stage, attempt) = refined.or_else(tuned)?;
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
    use dissent_domain::event::{EvaluationRequested, EventId, PromptAdmitted};
    use dissent_domain::id::{ExperimentId, PromptId};
    use dissent_domain::log::{Append, ExpectedVersion};
    use dissent_domain::prompt::Prompt;
    use dissent_models::ModelError;
    use dissent_storage::{MemoryLog, wait};

    use super::*;

    /// A step whose model always fails.
    struct Failing;

    impl AnyStep for Failing {
        fn name(&self) -> StepName {
            StepName::Generation
        }

        fn batch(&self) -> usize {
            1
        }

        fn handle_events(&mut self, batch: Vec<Received>) -> Vec<Result<Consequence, StepError>> {
            let error = || StepError::retry(ModelError::Runtime("no memory".to_owned()));
            batch.iter().map(|_| Err(error())).collect()
        }
    }

    fn experiment() -> ExperimentId {
        ExperimentId::new("e").unwrap()
    }

    /// Recomputes the result of an event, in a log whose only event sets its prompt aside for this reason.
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
            inputs: None,
            cancel: CancelFlag::new(),
            done: Recomputed::default(),
        };
        again.flush()?;
        Ok(again.done)
    }

    fn admitted() -> Event {
        let prompt = Prompt {
            prompt_id: PromptId::new("p").unwrap(),
            text: "why?".to_owned(),
            category: None,
            messages: Vec::new(),
        };
        PromptAdmitted { round: 0, index: 0, prompt }.into()
    }

    #[test]
    fn the_failure_that_set_a_prompt_aside_is_the_same_result() {
        let same = again(admitted(), "gave up after 3 attempts: no memory").unwrap();
        assert_eq!((same.steps[&StepName::Generation].same, same.differences.len()), (1, 0));
        let other = again(admitted(), "gave up after 3 attempts: no disk").unwrap();
        assert_eq!((other.steps[&StepName::Generation].same, other.differences.len()), (0, 1));
    }

    #[test]
    fn a_failure_without_a_prompt_is_an_error() {
        let error = again(EvaluationRequested { evaluation: 0 }.into(), "").unwrap_err();
        let RecomputeError::Step { step: StepName::Generation, source: StepError::Fatal(fault) } = error
        else {
            panic!("{error:?}")
        };
        assert!(matches!(fault, StepFault::Model(_)), "{fault:?}");
    }
}
