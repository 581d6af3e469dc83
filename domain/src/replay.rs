//! Rebuilds an experiment from its events, and checks every pure decision against the rules and the recorded
//! inputs.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::conflict;
use crate::event::{
    CodecError, ConflictMeasured, Event, EventId, ExperimentForked, PromptEvent, Recorded, RoundOpened,
};
use crate::experiment::Experiment;
use crate::id::{ExperimentId, PromptId};
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
        /// Its position in the log.
        position: u64,
        /// The previous version.
        previous: u64,
        /// Its version.
        found: u64,
    },
    /// A recorded decision differs from the rules' decision.
    #[error("event {position} ({event_type}): {reason}")]
    Differs {
        /// Its position in the log.
        position: u64,
        /// Its type.
        event_type: String,
        /// The difference.
        reason: String,
    },
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
            verifier.check(&self.experiment, recorded, &event).map_err(|reason| ReplayError::Differs {
                position: recorded.position,
                event_type: recorded.event.event_type.clone(),
                reason,
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
    fn check(&mut self, state: &Experiment, recorded: &Recorded, event: &Event) -> Result<(), String> {
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

    /// Keeps the inputs of a conflict, and measures it again.
    fn check_prompt(&mut self, state: &Experiment, event: &PromptEvent) -> Result<(), String> {
        match event {
            PromptEvent::Admitted(_) => {}
            PromptEvent::Sampled(e) => {
                let kind = state.plan().ok_or("the history has no plan before it")?.conflict.logprob;
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

    fn check_decided(state: &Experiment, recorded: &Recorded, event: &Event) -> Result<(), String> {
        let decided = if let Event::Operator(command) = event {
            // A command may interrupt a decision of the round step, which continues after it.
            if recorded.event.causation != Some(EventId::of_experiment(&recorded.experiment)) {
                return Err("an operator command must have the experiment's start as its cause".to_owned());
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
        decided.map_err(|rejection| format!("the rules reject the event: {rejection}"))
    }

    /// Checks that positions grow and that the cause precedes the event.
    fn check_place(&mut self, recorded: &Recorded) -> Result<(), String> {
        if recorded.position <= self.position {
            return Err(format!(
                "its position does not exceed the previous position {} of its stream",
                self.position
            ));
        }
        self.position = recorded.position;
        if let Some(cause) = recorded.event.causation
            && !self.seen.contains(&cause)
        {
            return Err(format!("its cause {cause} is not in its stream before it"));
        }
        self.seen.insert(recorded.event.id);
        Ok(())
    }

    /// Checks that the id derives from the cause.
    fn check_id(&mut self, recorded: &Recorded, event: &Event) -> Result<(), String> {
        let index = self.numbering.index(event);
        let expected = derived_id(&recorded.experiment, recorded.event.causation, event, index);
        if expected == recorded.event.id {
            Ok(())
        } else {
            Err(format!("its id is {}, but its cause implies {expected}", recorded.event.id))
        }
    }

    fn check_conflict(&mut self, e: &ConflictMeasured) -> Result<(), String> {
        let logprobs = self.logprobs.remove(&e.prompt_id).ok_or("no completions are recorded before it")?;
        let rewards = self.rewards.remove(&e.prompt_id).ok_or("no rewards are recorded before it")?;
        let again = conflict::measure(&rewards, &logprobs).map_err(|error| error.to_string())?;
        if again == e.conflict {
            Ok(())
        } else {
            Err(format!("its conflict must be {again:?}, not {:?}", e.conflict))
        }
    }

    fn check_due(&mut self, state: &Experiment, event: &Event) -> Result<(), String> {
        if self.due.is_empty() {
            self.due = state.due().map(|due| due.events.into()).unwrap_or_default();
        }
        match self.due.pop_front() {
            Some(expected) if expected == *event => Ok(()),
            Some(expected) => Err(format!("the due event is {expected:?}, not {event:?}")),
            None => Err("no event was due".to_owned()),
        }
    }
}
