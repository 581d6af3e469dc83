//! The training step: `TrainingRequested` → `TrainingStarted` → … → `RewardModelRefined` or `PolicyTuned`.
//!
//! A training takes minutes or hours, so it is not worked on while its request is in hand. The step takes up a request with
//! a lease and acknowledges it; its own `TrainingStarted`, once it reads it in the durable history, sets the `worker` to work,
//! which says by `TrainingProgressed` that it is alive and how far it is. Whoever takes the training up after it goes on from the last
//! checkpoint. An attempt that was given up proposes in vain: the rules reject what it says.

pub(crate) mod data;
mod learner;
pub(crate) mod lease;
mod model_learner;
pub(crate) mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use dissent_domain::event::{
    Event, EventId, EventType, Recorded, Stage, StepName, TrainingRequested, TrainingStarted,
};
use dissent_domain::experiment::Experiment;
use dissent_domain::learning::{Training as State, TrainingProgress};
use dissent_domain::operator::ExperimentStatus;
use tracing::Span;

pub use learner::{Learner, Learnt, Refinement, Tuning, Watch};
pub use model_learner::{Learnable, ModelLearner};
pub use worker::LeaseTimes;

use crate::model::{Versions, fatal, lock};
use crate::step::{Consequence, Perform, Received, StepError, follows};

/// A training that this process has taken up.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    pub(crate) round: u32,
    pub(crate) stage: Stage,
    pub(crate) attempt: u32,
    /// The id of its request, which everything that comes of it follows from.
    pub(crate) requested: EventId,
    /// The checkpoint to go on from.
    pub(crate) checkpoint: Option<String>,
    /// Raised when it is to end: another attempt has taken its place, or the experiment was paused or cancelled.
    pub(crate) ends: Arc<AtomicBool>,
    /// Lasts as long as the training: its trace is of its own.
    pub(crate) span: Span,
}

/// Takes trainings up.
pub(crate) struct Training {
    intake: Arc<Intake>,
    lease_ms: u64,
}

/// Where the trainings of this process begin, once it is durable that they are its own.
pub(crate) struct Intake {
    versions: Versions,
    /// Names this process, and no other that ever was.
    worker: String,
    assignments: Mutex<Assignments>,
}

/// The way to the thread that trains.
struct Assignments {
    sender: Sender<Assignment>,
    current: Option<Arc<AtomicBool>>,
}

impl Assignment {
    /// Whether history still counts on this attempt.
    fn is_current(&self, versions: &Versions) -> bool {
        let state = state(versions, self.round, self.stage, self.attempt);
        // Nothing counts in an experiment that was given up.
        let is_over = versions.states.standing(&versions.experiment) == ExperimentStatus::Cancelled;
        !is_over && state.is_some_and(|state| matches!(state.progress, TrainingProgress::Running { .. }))
    }
}

impl Intake {
    pub(crate) fn new(versions: Versions, worker: String, sender: Sender<Assignment>) -> Self {
        Self { versions, worker, assignments: Mutex::new(Assignments { sender, current: None }) }
    }

    /// Begins a training that history says this process has taken up, and ends it where the experiment is paused or cancelled. Other
    /// events, and other processes' trainings, are passed over.
    pub(crate) fn take_note(&self, recorded: &Recorded) -> Result<(), StepError> {
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

    fn begin(&self, recorded: &Recorded) -> Result<(), StepError> {
        let Event::TrainingStarted(started) = recorded.decode().map_err(fatal)? else { return Ok(()) };
        let TrainingStarted { round, stage, attempt, worker, .. } = started;
        let Some(state) = state(&self.versions, round, stage, attempt).filter(|_| worker == self.worker)
        else {
            return Ok(());
        };
        if !matches!(state.progress, TrainingProgress::Running { .. }) {
            return Ok(());
        }
        // Taken up while the pause was on its way: it is given up again, and requested anew when the pause ends.
        let goes_on = self.versions.states.standing(&self.versions.experiment) == ExperimentStatus::Running;
        let ends = Arc::new(AtomicBool::new(!goes_on));
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
            .map_err(|_| StepError::Fatal("the trainer's thread is gone".to_owned()))
    }
}

/// The state of an attempt, if it is the current one.
fn state(versions: &Versions, round: u32, stage: Stage, attempt: u32) -> Option<State> {
    let current = |experiment: &Experiment| {
        let open = experiment.rounds().last().filter(|open| open.number() == round)?;
        open.learning().training(stage).filter(|training| training.attempt == attempt).cloned()
    };
    versions.states.look(&versions.experiment, current)?
}

impl Training {
    pub(crate) fn new(intake: Arc<Intake>, lease_ms: u64) -> Self {
        Self { intake, lease_ms }
    }

    fn take_up(&self, received: &Received, requested: &TrainingRequested) -> Consequence {
        let &TrainingRequested { round, stage, attempt, .. } = requested;
        let state = state(&self.intake.versions, round, stage, attempt);
        if state.is_none_or(|state| state.progress != TrainingProgress::Requested) {
            return follows(received, []);
        }
        let (worker, lease_ms) = (self.intake.worker.clone(), self.lease_ms);
        follows(received, [TrainingStarted { round, stage, attempt, worker, lease_ms }.into()])
    }
}

impl Perform for Training {
    const STEP: StepName = StepName::Training;
    const CONSUMES: &'static [EventType] = &[EventType::TrainingRequested];

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        batch
            .iter()
            .map(|received| {
                let Event::TrainingRequested(requested) = &received.event else {
                    return Ok(follows(received, []));
                };
                Ok(self.take_up(received, requested))
            })
            .collect()
    }
}
