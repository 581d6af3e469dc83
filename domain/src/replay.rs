//! Rebuilds an experiment from its events, and checks every pure decision against the rules and the recorded
//! inputs.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::conflict::{self, Conflict, ConflictError};
use crate::event::{
    CodecError, ConflictMeasured, Event, EventId, ExperimentForked, PromptEvent, Recorded, RoundOpened,
};
use crate::experiment::Experiment;
use crate::id::{ExperimentId, PromptId};
use crate::rejection::Rejection;
use crate::snapshot::Snapshot;

/// A contradiction between a history and the rules.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A body cannot be read.
    #[error("event {position}: {source}")]
    Body {
        /// Its position in the log.
        position: u64,
        /// The error of the decoder.
        source: CodecError,
    },
    /// A stream's versions have a gap.
    #[error("event {position}: version {found} of its stream follows version {previous}")]
    Gap {
        /// Position of the event in the log.
        position: u64,
        /// The previous version.
        previous: u64,
        /// Its version.
        found: u64,
    },
    /// The event contradicts the rules or the events before it.
    #[error("event {position} ({event_type}): {difference}")]
    Differs {
        /// Its position in the log.
        position: u64,
        /// Its type.
        event_type: String,
        /// The difference.
        difference: Difference,
    },
}

/// Difference between a recorded event and the event that the rules allow.
#[derive(Debug, thiserror::Error)]
pub enum Difference {
    /// Positions of a stream must grow.
    #[error("the position does not exceed the previous position {previous} of the stream")]
    Position {
        /// The position of the previous event.
        previous: u64,
    },
    /// The stream has no such cause before the event.
    #[error("the cause {0} does not precede the event in the stream")]
    UnknownCause(EventId),
    /// The id derives from another cause.
    #[error("the id is {found}, but the cause implies {expected}")]
    Id {
        /// The recorded id.
        found: EventId,
        /// The id that derives from the cause.
        expected: EventId,
    },
    /// An operator command has another cause.
    #[error("an operator command must have the experiment's start as its cause")]
    CommandCause,
    /// The rules reject the event.
    #[error("the rules reject the event: {0}")]
    Rejected(Rejection),
    /// No conclusion was due.
    #[error("no event was due")]
    NotDue,
    /// Another conclusion was due.
    #[error("the due event is {expected:?}, not {found:?}")]
    OtherEvent {
        /// The due event.
        expected: Box<Event>,
        /// The recorded event.
        found: Box<Event>,
    },
    /// The history has no plan.
    #[error("the history has no plan before the event")]
    NoPlan,
    /// The prompt of a conflict has no completions.
    #[error("no completions are recorded before the event")]
    NoCompletions,
    /// The prompt of a conflict has no rewards.
    #[error("no rewards are recorded before the event")]
    NoRewards,
    /// The conflict cannot be measured.
    #[error(transparent)]
    Conflict(#[from] ConflictError),
    /// The conflict of the recorded scores is another one.
    #[error("the conflict must be {expected:?}, not {found:?}")]
    OtherConflict {
        /// The conflict of the recorded scores.
        expected: Box<Conflict>,
        /// The recorded conflict.
        found: Box<Conflict>,
    },
    /// The snapshot after the event has another state.
    #[error("the snapshot after the event holds another state, and was deleted")]
    Snapshot,
}

impl ReplayError {
    /// The position of the contradicting event.
    #[must_use]
    pub fn position(&self) -> u64 {
        match self {
            Self::Body { position, .. } | Self::Gap { position, .. } | Self::Differs { position, .. } => {
                *position
            }
        }
    }
}

/// Folds a stream into its state. When verifying, decides again and compares.
#[derive(Debug, Default)]
pub struct Replay {
    experiment: Experiment,
    version: u64,
    verifier: Option<Verifier>,
}

impl Replay {
    /// A replay that only rebuilds the state.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A replay that rebuilds the state and checks every decision.
    #[must_use]
    pub fn verifying() -> Self {
        Self { verifier: Some(Verifier::default()), ..Self::default() }
    }

    /// A replay that resumes after a snapshot, without checks.
    #[must_use]
    pub fn resuming(snapshot: Snapshot) -> Self {
        Self { version: snapshot.version, experiment: snapshot.into_state(), verifier: None }
    }

    /// Applies the next event of the stream.
    ///
    /// # Errors
    /// If the event cannot be read, is not the next one, or (when verifying) contradicts the rules.
    pub fn apply(&mut self, recorded: &Recorded) -> Result<(), ReplayError> {
        if recorded.version != self.version + 1 {
            return Err(ReplayError::Gap {
                position: recorded.position,
                previous: self.version,
                found: recorded.version,
            });
        }
        let event =
            recorded.decode().map_err(|source| ReplayError::Body { position: recorded.position, source })?;
        if let Some(verifier) = &mut self.verifier {
            verifier.check(&self.experiment, recorded, &event).map_err(|difference| {
                ReplayError::Differs {
                    position: recorded.position,
                    event_type: recorded.event.event_type.clone(),
                    difference,
                }
            })?;
        }
        self.experiment.evolve(&event);
        self.version = recorded.version;
        Ok(())
    }

    /// The state so far.
    #[must_use]
    pub fn experiment(&self) -> &Experiment {
        &self.experiment
    }

    /// Returns the state.
    #[must_use]
    pub fn into_experiment(self) -> Experiment {
        self.experiment
    }

    /// The version of the last event applied; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Number of events still missing from the current decision; 0 if not verifying.
    #[must_use]
    pub fn undecided(&self) -> usize {
        self.verifier.as_ref().map_or(0, |verifier| verifier.due.len())
    }

    /// Number of events checked so far; 0 if not verifying.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.verifier.as_ref().map_or(0, |verifier| verifier.checked)
    }
}

/// State of the checks: the inputs of unfinished prompts, and the pending decision.
#[derive(Debug, Default)]
struct Verifier {
    logprobs: HashMap<PromptId, Vec<f64>>,
    rewards: HashMap<PromptId, Vec<f64>>,
    /// The missing events of the current decision.
    due: VecDeque<Event>,
    numbering: Numbering,
    /// Every event so far: a cause must be among them.
    seen: HashSet<EventId>,
    position: u64,
    checked: u64,
}

/// Numbers of events of one type with the same cause.
#[derive(Debug, Default)]
pub(crate) struct Numbering {
    /// Pairs selected so far in the open round.
    pairs: u32,
    forks: u32,
}

impl Numbering {
    /// The number of the next event of a stream.
    pub(crate) fn index(&mut self, event: &Event) -> u32 {
        if event.body::<RoundOpened>().is_some() {
            self.pairs = 0;
        }
        event.number().unwrap_or_else(|| {
            let is_fork = event.body::<ExperimentForked>().is_some();
            let counter = if is_fork { &mut self.forks } else { &mut self.pairs };
            *counter += 1;
            *counter - 1
        })
    }

    /// Forks so far.
    pub(crate) fn forks(&self) -> u32 {
        self.forks
    }
}

/// Derives the id of an event from its cause and its number.
pub(crate) fn derived_id(
    experiment: &ExperimentId,
    cause: Option<EventId>,
    event: &Event,
    index: u32,
) -> EventId {
    match cause {
        None => EventId::of_experiment(experiment),
        Some(cause) => cause.causing(event, index),
    }
}

impl Verifier {
    fn check(&mut self, state: &Experiment, recorded: &Recorded, event: &Event) -> Result<(), Difference> {
        self.check_place(recorded)?;
        self.check_id(recorded, event)?;
        Self::check_decided(state, recorded, event)?;
        if event.is_conclusion() {
            self.check_due(state, event)?;
        } else if let Event::Prompt(e) = event {
            self.check_prompt(state, e)?;
        }
        // Other events are results from outside: only the rules can check them, not a second computation.
        self.checked += 1;
        Ok(())
    }

    /// Stores the inputs of a conflict, and checks a recorded conflict against them.
    fn check_prompt(&mut self, state: &Experiment, event: &PromptEvent) -> Result<(), Difference> {
        match event {
            PromptEvent::Admitted(_) => {}
            PromptEvent::Sampled(e) => {
                let kind = state.plan().ok_or(Difference::NoPlan)?.conflict.logprob;
                let logprobs = e.completions.iter().map(|completion| completion.logprob_as(kind)).collect();
                self.logprobs.insert(e.prompt.prompt_id.clone(), logprobs);
            }
            PromptEvent::Scored(e) => drop(self.rewards.insert(e.prompt_id.clone(), e.rewards.clone())),
            PromptEvent::Measured(e) => self.check_conflict(e)?,
            PromptEvent::SetAside(e) => {
                self.logprobs.remove(&e.prompt_id);
                self.rewards.remove(&e.prompt_id);
            }
        }
        Ok(())
    }

    fn check_decided(state: &Experiment, recorded: &Recorded, event: &Event) -> Result<(), Difference> {
        let decided = if let Event::Operator(command) = event {
            // A command may interrupt a decision of the round step, which continues after it.
            if recorded.event.causation != Some(EventId::of_experiment(&recorded.experiment)) {
                return Err(Difference::CommandCause);
            }
            state.decide_command(command)
        } else if event.is_conclusion() {
            // `check_due` compares it with the due events.
            state.decide_conclusion()
        } else if let Some(e) = event.body::<ExperimentForked>() {
            state.decide_fork(e)
        } else {
            state.decide(event)
        };
        decided.map_err(Difference::Rejected)
    }

    /// Checks that positions grow and that the cause precedes the event.
    fn check_place(&mut self, recorded: &Recorded) -> Result<(), Difference> {
        if recorded.position <= self.position {
            return Err(Difference::Position { previous: self.position });
        }
        self.position = recorded.position;
        if let Some(cause) = recorded.event.causation
            && !self.seen.contains(&cause)
        {
            return Err(Difference::UnknownCause(cause));
        }
        self.seen.insert(recorded.event.id);
        Ok(())
    }

    /// Checks that the id derives from the cause.
    fn check_id(&mut self, recorded: &Recorded, event: &Event) -> Result<(), Difference> {
        let index = self.numbering.index(event);
        let expected = derived_id(&recorded.experiment, recorded.event.causation, event, index);
        if expected == recorded.event.id {
            Ok(())
        } else {
            Err(Difference::Id { found: recorded.event.id, expected })
        }
    }

    fn check_conflict(&mut self, e: &ConflictMeasured) -> Result<(), Difference> {
        let logprobs = self.logprobs.remove(&e.prompt_id).ok_or(Difference::NoCompletions)?;
        let rewards = self.rewards.remove(&e.prompt_id).ok_or(Difference::NoRewards)?;
        let again = conflict::measure(&rewards, &logprobs)?;
        if again == e.conflict {
            Ok(())
        } else {
            Err(Difference::OtherConflict { expected: Box::new(again), found: Box::new(e.conflict.clone()) })
        }
    }

    fn check_due(&mut self, state: &Experiment, event: &Event) -> Result<(), Difference> {
        if self.due.is_empty() {
            self.due = state.due().map(|due| due.events.into()).unwrap_or_default();
        }
        match self.due.pop_front() {
            Some(expected) if expected == *event => Ok(()),
            Some(expected) => {
                Err(Difference::OtherEvent { expected: Box::new(expected), found: Box::new(event.clone()) })
            }
            None => Err(Difference::NotDue),
        }
    }
}
