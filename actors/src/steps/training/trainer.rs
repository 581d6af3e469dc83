//! The contract of a trainer: the tasks that it receives, and the watch to which it reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dissent_domain::event::CompletionsSampled;
use dissent_domain::plan::TuningPlan;
use dissent_domain::training::{Hyperparameters, Preference};
use dissent_models::adapter::LoraAdapter;
use dissent_models::runtime::CancelFlag;
use dissent_storage::ArtifactStore;
use tokio::sync::mpsc;

use super::report::Report;
use crate::error::StepError;

/// Trains models. The same task has the same result, whether it is trained in one go or resumed from a
/// checkpoint.
pub trait Trainer: Send {
    /// Refines the reward model on preferences.
    ///
    /// # Errors
    /// [`StepError::Cancelled`] if the watch asks to stop; any other error ends the run.
    fn refine(&mut self, task: Refinement, watch: &mut TrainingWatch) -> Result<TrainedAdapter, StepError>;

    /// Tunes the policy against the reward model.
    ///
    /// # Errors
    /// As `refine`.
    fn tune(&mut self, task: Tuning, watch: &mut TrainingWatch) -> Result<TrainedAdapter, StepError>;
}

/// A training of the reward model.
#[derive(Debug, Clone)]
pub struct Refinement {
    /// The adapter of the current reward model, which is trained further.
    pub adapter: Option<Arc<LoraAdapter>>,
    /// The preferences that the feedback of all rounds yields.
    pub feedback: Vec<Preference>,
    /// The preferences that the reward model was first trained on.
    pub original: Vec<Preference>,
    /// The hyperparameters of the training.
    pub hyperparameters: Hyperparameters,
    /// The checkpoint to resume from.
    pub resume: Option<Vec<u8>>,
}

/// A training of the policy.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// The name in the seeds of samples.
    pub sampling_key: String,
    /// The seed of the experiment.
    pub seed: u64,
    /// The round.
    pub round: u32,
    /// The adapter of the current policy, which is trained further.
    pub policy: Option<Arc<LoraAdapter>>,
    /// The adapter of the current reward model.
    pub reward: Option<Arc<LoraAdapter>>,
    /// The completions that the policy sampled in the round.
    pub completions: Vec<CompletionsSampled>,
    /// The objective and hyperparameters of the training.
    pub plan: TuningPlan,
    /// The checkpoint to resume from.
    pub resume: Option<Vec<u8>>,
}

/// The result of a training.
#[derive(Debug, Clone)]
pub struct TrainedAdapter {
    /// The new adapter, which replaces the previous one.
    pub adapter: LoraAdapter,
    /// Fingerprint of the model with it.
    pub fingerprint: String,
    /// Preferences from feedback that it was trained on.
    pub preferences: u32,
    /// Preferences of the original data that it was trained on.
    pub rehearsed: u32,
    /// Final figures, named as in TRL.
    pub metrics: BTreeMap<String, f64>,
}

/// Receives the progress of a training, and says whether the training should stop.
pub struct TrainingWatch {
    /// The receiver of reports and the store of checkpoints; `None`: the watch drops both.
    watcher: Option<(mpsc::Sender<Report>, ArtifactStore)>,
    cancel: CancelFlag,
    /// Raised to stop: the flag of the pipeline, and the one of this attempt.
    stop: [Arc<AtomicBool>; 2],
}

impl TrainingWatch {
    pub(super) fn new(
        reports: mpsc::Sender<Report>,
        artifacts: ArtifactStore,
        cancel: CancelFlag,
        stop: [Arc<AtomicBool>; 2],
    ) -> Self {
        Self { watcher: Some((reports, artifacts)), cancel, stop }
    }

    /// A watch that drops reports and checkpoints, for a training that only a cancellation stops.
    pub(crate) fn unwatched(cancel: CancelFlag) -> Self {
        Self { watcher: None, cancel, stop: Default::default() }
    }

    /// Whether the training should end at its next step, after a checkpoint.
    #[must_use]
    pub fn should_stop(&self) -> bool {
        self.stop.iter().any(|stop| stop.load(Ordering::Relaxed))
    }

    /// Interrupts the run of a model.
    #[must_use]
    pub fn cancel(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// Reports the number of steps done. Metrics that are not finite are left out.
    ///
    /// # Errors
    /// [`StepError::Cancelled`] when the receiver has ended.
    pub fn progressed(
        &mut self,
        step: u64,
        steps: u64,
        metrics: BTreeMap<String, f64>,
    ) -> Result<(), StepError> {
        self.report(Report::Progressed { step, steps, checkpoint: None, metrics })
    }

    /// Stores a checkpoint taken after `step` steps, if there is a store. It is durable on return, and its id
    /// soon in the log.
    ///
    /// # Errors
    /// If it cannot be stored, or the receiver has ended.
    pub fn checkpoint(&mut self, step: u64, steps: u64, bytes: &[u8]) -> Result<(), StepError> {
        let Some((_, artifacts)) = &self.watcher else { return Ok(()) };
        let checkpoint = Some(artifacts.put_bytes(bytes).map_err(StepError::fatal)?.to_string());
        self.report(Report::Progressed { step, steps, checkpoint, metrics: BTreeMap::new() })
    }

    pub(super) fn report(&mut self, report: Report) -> Result<(), StepError> {
        let Some((reports, _)) = &self.watcher else { return Ok(()) };
        reports.blocking_send(report).map_err(|_| StepError::Cancelled)
    }
}
