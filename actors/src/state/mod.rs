//! The states of the experiments of a process, folded from their histories.

pub(crate) mod clock;
pub(crate) mod progress;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dissent_domain::due::Due;
use dissent_domain::event::{EventId, EventType, Recorded, Stage};
use dissent_domain::experiment::Experiment;
use dissent_domain::id::ExperimentId;
use dissent_domain::journal::Ledger;
use dissent_domain::learning::{ModelVersion, Training, TrainingProgress};
use dissent_domain::log::{Append, EventLog};
use dissent_domain::operator::{ExperimentStatus, OperatorCommand};
use dissent_domain::replay::{Replay, ReplayError};
use dissent_storage::{SNAPSHOT_EVENTS, Snapshots};

use crate::error::{CommandError, LoadError};
use clock::now_us;
use progress::Progress;

/// Events read from the log at once when a state is rebuilt.
const PAGE: usize = 1024;

/// The effect of an operator command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandOutcome {
    /// The status of the experiment now.
    pub status: ExperimentStatus,
    /// Whether the command changed the status.
    pub changed: bool,
}

/// The outcome of judgements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What became of each judgement, in order.
    pub lines: Vec<JudgedLine>,
}

/// What became of a judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgedLine {
    /// The id of its event.
    pub event: EventId,
    /// Whether it was recorded now. Otherwise it is in the log already, or came twice.
    pub is_new: bool,
}

impl Judged {
    /// The number of judgements that were recorded.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.lines.iter().filter(|line| line.is_new).count() as u64
    }

    /// The number of judgements that are in the log already, or that came twice.
    #[must_use]
    pub fn already_there(&self) -> u64 {
        self.lines.len() as u64 - self.recorded()
    }
}

/// The states of the experiments of a process, as the journal decided them. Only the journal changes them.
#[derive(Debug, Clone, Default)]
pub struct States(Arc<Mutex<HashMap<ExperimentId, State>>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    /// When this process last saw a heartbeat of a training. No rule reads it; only the watch on leases does.
    /// The time in the event cannot be used: clocks jump, and differ between hosts.
    pub(crate) last_heartbeat: Option<Instant>,
    /// Whether an event of the running training waits for its artifact check. Only the watch on leases reads
    /// it.
    is_checking: bool,
}

/// The lease of a training that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) round: u32,
    pub(crate) stage: Stage,
    pub(crate) attempt: u32,
    /// The event that requested the training.
    pub(crate) requested: EventId,
    pub(crate) lease_ms: u64,
    /// Time since this process last saw a heartbeat.
    pub(crate) silent: Duration,
    /// Whether an event of the training waits for its artifact check: the worker is not silent, the store is.
    pub(crate) is_checking: bool,
}

impl Lease {
    /// Whether the lease has run out without a heartbeat.
    pub(crate) fn has_expired(&self) -> bool {
        !self.is_checking && self.silent > Duration::from_millis(self.lease_ms)
    }
}

impl States {
    /// Rebuilds the state of an experiment from its latest snapshot, if any, and the events that follow it.
    ///
    /// # Errors
    /// If the log cannot be read, or an event in it cannot be applied.
    pub fn load(
        &self,
        log: &dyn EventLog,
        experiment: &ExperimentId,
        snapshots: Option<&Snapshots>,
    ) -> Result<(), LoadError> {
        let replay = match snapshots {
            Some(snapshots) => snapshots.resume(log, experiment, SNAPSHOT_EVENTS)?,
            None => replayed(log, experiment)?,
        };
        // Heartbeats that a worker sent while no journal ran may still arrive: the worker gets its whole
        // lease.
        let state = State { ledger: replay.into(), last_heartbeat: Some(Instant::now()), is_checking: false };
        self.lock().insert(experiment.clone(), state);
        Ok(())
    }

    /// As [`load`](Self::load); an error if the log lacks the experiment.
    pub(crate) fn load_existing(
        &self,
        log: &dyn EventLog,
        experiment: &ExperimentId,
    ) -> Result<(), CommandError> {
        if log.read_stream(experiment, 0, 1)?.is_empty() {
            return Err(CommandError::Unknown(experiment.clone()));
        }
        Ok(self.load(log, experiment, None)?)
    }

    /// Drops the state of an experiment.
    pub(crate) fn remove(&self, experiment: &ExperimentId) {
        self.lock().remove(experiment);
    }

    /// Decides an operator command. On acceptance the state is evolved, and the caller must append at once.
    pub(crate) fn command(
        &self,
        experiment: &ExperimentId,
        command: &OperatorCommand,
    ) -> Result<(Option<Append>, CommandOutcome), CommandError> {
        let mut states = self.lock();
        let state = states.get_mut(experiment).ok_or_else(|| CommandError::Unknown(experiment.clone()))?;
        let append = state
            .ledger
            .command(command, now_us())
            .map_err(|rejection| CommandError::Rejected { experiment: experiment.clone(), rejection })?;
        let status = state.ledger.experiment().status();
        let outcome = CommandOutcome { status, changed: append.is_some() };
        Ok((append, outcome))
    }

    /// The status of an experiment: running, paused, cancelled or finished.
    #[must_use]
    pub fn status(&self, experiment: &ExperimentId) -> ExperimentStatus {
        self.read(experiment, Experiment::status).unwrap_or_default()
    }

    /// Applies the next event of an experiment whose history another process writes.
    ///
    /// # Errors
    /// If the event does not follow the state, or cannot be decoded.
    pub(crate) fn follow(&self, recorded: &Recorded) -> Result<(), ReplayError> {
        let mut states = self.lock();
        let state = states.entry(recorded.experiment.clone()).or_default();
        state.ledger.follow(recorded)?;
        if EventType::from_name(&recorded.event.event_type).is_some_and(is_heartbeat) {
            state.last_heartbeat = Some(Instant::now());
        }
        Ok(())
    }

    /// Reads the state of an experiment; `None` if it is not loaded. The journal waits meanwhile, so `read`
    /// must be fast.
    pub(crate) fn read<T>(
        &self,
        experiment: &ExperimentId,
        read: impl FnOnce(&Experiment) -> T,
    ) -> Option<T> {
        self.lock().get(experiment).map(|state| read(state.ledger.experiment()))
    }

    /// The version of the last event that was decided; 0 before the first.
    pub(crate) fn version(&self, experiment: &ExperimentId) -> u64 {
        self.lock().get(experiment).map_or(0, |state| state.ledger.version())
    }

    /// The current policy; `None` before the start.
    #[must_use]
    pub fn policy(&self, experiment: &ExperimentId) -> Option<ModelVersion> {
        self.read(experiment, Experiment::policy)?
    }

    /// The current reward model; `None` before the start.
    #[must_use]
    pub fn reward_model(&self, experiment: &ExperimentId) -> Option<ModelVersion> {
        self.read(experiment, Experiment::reward_model)?
    }

    /// The lease of the training that runs in the open round; `None` if no training runs or the experiment is
    /// over.
    pub(crate) fn lease(&self, experiment: &ExperimentId) -> Option<Lease> {
        let states = self.lock();
        let state = states.get(experiment)?;
        let round = state.ledger.experiment().rounds().last()?;
        if state.ledger.experiment().is_over() {
            return None;
        }
        let stages = [Stage::Reward, Stage::Policy];
        stages.into_iter().find_map(|stage| {
            let Training { attempt, requested, progress, .. } = round.learning().training(stage)?;
            let TrainingProgress::Running { lease_ms, .. } = *progress else { return None };
            let (round, attempt, requested) = (round.number(), *attempt, *requested);
            let silent = state.last_heartbeat.map(|seen| seen.elapsed()).unwrap_or_default();
            let is_checking = state.is_checking;
            Some(Lease { round, stage, attempt, requested, lease_ms, silent, is_checking })
        })
    }

    /// Notes whether an event of the running training waits for its artifact check.
    pub(crate) fn set_checking(&self, experiment: &ExperimentId, is_checking: bool) {
        if let Some(state) = self.lock().get_mut(experiment) {
            state.is_checking = is_checking;
        }
    }

    /// Events whose consequences are missing, each the latest of its kind.
    pub(crate) fn unanswered(&self, experiment: &ExperimentId) -> Vec<EventId> {
        self.lock().get(experiment).map_or_else(Vec::new, |state| state.ledger.unanswered())
    }

    /// The events that the round step has to propose next.
    #[must_use]
    pub fn due(&self, experiment: &ExperimentId) -> Option<Due> {
        self.lock().get(experiment)?.ledger.experiment().due()
    }

    /// The progress of an experiment.
    #[must_use]
    pub fn progress(&self, experiment: &ExperimentId) -> Progress {
        let states = self.lock();
        states.get(experiment).map(State::progress).unwrap_or_default()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<ExperimentId, State>> {
        // A panic during a decision leaves the state unchanged or ends the process.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn replayed(log: &dyn EventLog, experiment: &ExperimentId) -> Result<Replay, LoadError> {
    let mut replay = Replay::new();
    loop {
        let page = log.read_stream(experiment, replay.version(), PAGE)?;
        if page.is_empty() {
            return Ok(replay);
        }
        for recorded in &page {
            replay.apply(recorded)?;
        }
    }
}

impl State {
    pub(crate) fn progress(&self) -> Progress {
        Progress::of(self.ledger.experiment(), self.ledger.version())
    }
}

/// Whether an event is a heartbeat of a training.
pub(crate) fn is_heartbeat(kind: EventType) -> bool {
    matches!(kind, EventType::TrainingStarted | EventType::TrainingProgressed)
}
