//! The one decision over every proposal: which of its events are new, whether they may happen, and the state after them.
//!
//! A [`Ledger`] is ahead of the disk: it holds what was decided, durable or not. Whoever writes the log drops it when a write
//! fails, and rebuilds it from the log.

use crate::event::{Event, EventId, NewEvent, Recorded, decode};
use crate::experiment::Experiment;
use crate::id::ExperimentId;
use crate::log::{Append, ExpectedVersion};
use crate::replay::{Replay, ReplayError};

/// The state of an experiment as its journal decided it.
#[derive(Debug, Default)]
pub struct Ledger {
    experiment: Experiment,
    version: u64,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It may happen, and the ledger counts on it: to be appended now.
    Accepted(Accepted),
    /// The rules say no, and nothing has changed: why, for a person to read.
    Rejected(String),
}

/// An accepted proposal.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// All its events, those that the log has already among them: it answers with those.
    pub append: Append,
    /// What is new in it.
    pub fresh: Vec<Event>,
}

impl From<Replay> for Ledger {
    fn from(replay: Replay) -> Self {
        let version = replay.version();
        Self { experiment: replay.into_experiment(), version }
    }
}

impl Ledger {
    /// The state, with all that was decided.
    #[must_use]
    pub fn experiment(&self) -> &Experiment {
        &self.experiment
    }

    /// The version of the last event that was decided; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Takes up the next event of a history that is written elsewhere.
    ///
    /// # Errors
    /// If it does not follow what is known, or cannot be read.
    pub fn follow(&mut self, recorded: &Recorded) -> Result<(), ReplayError> {
        let (position, previous, found) = (recorded.position, self.version, recorded.version);
        if found != previous + 1 {
            return Err(ReplayError::Gap { position, previous, found });
        }
        let event = recorded.decode().map_err(|source| ReplayError::Body { position, source })?;
        self.experiment.evolve(&event);
        self.version = found;
        Ok(())
    }

    /// Decides events that were proposed together: all of them are accepted, or none. `is_known` says whether the log
    /// has an event of this id, durably; `time_us` is stamped on them.
    ///
    /// # Errors
    /// As `is_known`.
    pub fn decide<E>(
        &mut self,
        experiment: &ExperimentId,
        proposed: &[NewEvent],
        time_us: u64,
        is_known: impl Fn(EventId) -> Result<bool, E>,
    ) -> Result<Decision, E> {
        let mut fresh = Vec::with_capacity(proposed.len());
        for new in proposed {
            if is_known(new.id)? {
                continue;
            }
            match self.check(new) {
                Ok(event) => fresh.push(event),
                Err(reason) => return Ok(Decision::Rejected(reason)),
            }
        }
        let expected = ExpectedVersion::Exact(self.version);
        fresh.iter().for_each(|event| self.experiment.evolve(event));
        self.version += fresh.len() as u64;
        let events = proposed.iter().map(|event| NewEvent { time_us, ..event.clone() }).collect();
        let append = Append { experiment: experiment.clone(), expected, events };
        Ok(Decision::Accepted(Accepted { append, fresh }))
    }

    fn check(&self, new: &NewEvent) -> Result<Event, String> {
        let event = decode(&new.event_type, new.schema_version, &new.body).map_err(|e| e.to_string())?;
        self.experiment.decide(&event).map_err(|rejection| rejection.to_string())?;
        Ok(event)
    }
}
