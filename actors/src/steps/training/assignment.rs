//! Passes the trainings that this process started to the trainer thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use dissent_domain::event::{EventId, EventType, Recorded, Stage, TrainingStarted};
use dissent_domain::experiment::Experiment;
use dissent_domain::learning::{Training as State, TrainingProgress};
use dissent_domain::operator::ExperimentStatus;
use tracing::Span;

use crate::error::StepFault;
use crate::live_models::shared::lock;
use crate::live_models::versions::Versions;

/// A training that this process started.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    pub(crate) round: u32,
    pub(crate) stage: Stage,
    pub(crate) attempt: u32,
    /// The id of its request, the cause of all its events.
    pub(crate) requested: EventId,
    /// The checkpoint to resume from.
    pub(crate) checkpoint: Option<String>,
    /// Raised when the training must end: another attempt replaced it, or the experiment is paused or
    /// cancelled.
    pub(crate) ends: Arc<AtomicBool>,
    /// The span of the training, which has a trace of its own.
    pub(crate) span: Span,
}

/// Begins the trainings of this process once their start is durable.
pub(crate) struct TrainingIntake {
    pub(super) versions: Versions,
    /// The unique name of this process.
    pub(super) worker: String,
    assignments: Mutex<Assignments>,
}

/// The channel to the thread of the trainer.
struct Assignments {
    sender: Sender<Assignment>,
    current: Option<Arc<AtomicBool>>,
}

impl Assignment {
    /// Whether this attempt still holds its lease.
    pub(super) fn is_current(&self, versions: &Versions) -> bool {
        let state = state(versions, self.round, self.stage, self.attempt);
        // A cancelled experiment does not need the training.
        let is_over = versions.states.status(&versions.experiment) == ExperimentStatus::Cancelled;
        !is_over && state.is_some_and(|state| matches!(state.progress, TrainingProgress::Running { .. }))
    }
}

impl TrainingIntake {
    pub(crate) fn new(versions: Versions, worker: String, sender: Sender<Assignment>) -> Self {
        Self { versions, worker, assignments: Mutex::new(Assignments { sender, current: None }) }
    }

    /// Begins a training when this process reads its own `TrainingStarted`; ends it when the experiment is
    /// paused or cancelled. Ignores other events and the trainings of other processes.
    pub(crate) fn observe(&self, recorded: &Recorded) -> Result<(), StepFault> {
        match EventType::from_name(&recorded.event.event_type) {
            Some(EventType::TrainingStarted) => self.begin(recorded),
            Some(EventType::ExperimentPaused | EventType::ExperimentCancelled) => {
                if let Some(current) = &lock(&self.assignments).current {
                    current.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn begin(&self, recorded: &Recorded) -> Result<(), StepFault> {
        let Ok(started) = TrainingStarted::try_from(recorded.decode()?) else { return Ok(()) };
        let TrainingStarted { round, stage, attempt, worker, .. } = started;
        let Some(state) = state(&self.versions, round, stage, attempt).filter(|_| worker == self.worker)
        else {
            return Ok(());
        };
        if !matches!(state.progress, TrainingProgress::Running { .. }) {
            return Ok(());
        }
        // A pause may precede the start: the training ends at once, and is requested again after the pause.
        let is_running = self.versions.states.status(&self.versions.experiment) == ExperimentStatus::Running;
        let ends = Arc::new(AtomicBool::new(!is_running));
        let mut assignments = lock(&self.assignments);
        if let Some(before) = assignments.current.replace(ends.clone()) {
            before.store(true, Ordering::Relaxed);
        }
        let State { requested, checkpoint, .. } = state;
        let span = tracing::info_span!(
            parent: None, "training", experiment_id = %recorded.experiment, round, ?stage, attempt, message_id = %requested,
        );
        assignments
            .sender
            .send(Assignment { round, stage, attempt, requested, checkpoint, ends, span })
            .map_err(|_| StepFault::ThreadGone)
    }
}

/// The state of an attempt, if it is the current one.
pub(super) fn state(versions: &Versions, round: u32, stage: Stage, attempt: u32) -> Option<State> {
    let current = |experiment: &Experiment| {
        let open = experiment.rounds().last().filter(|open| open.number() == round)?;
        open.learning().training(stage).filter(|training| training.attempt == attempt).cloned()
    };
    versions.states.read(&versions.experiment, current)?
}
