//! What a training needs of whoever does it, and what it is told on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dissent_domain::event::CompletionsSampled;
use dissent_domain::id::ExperimentId;
use dissent_domain::plan::TuningPlan;
use dissent_domain::training::{Hyperparameters, Preference};
use dissent_models::adapter::LoraAdapter;
use dissent_models::runtime::CancelFlag;
use dissent_storage::ArtifactStore;
use tokio::sync::mpsc;

use super::worker::Report;
use crate::model::fatal;
use crate::step::StepError;

/// Trains. Given the same task it comes to the same result, whether it is done in one go or from a checkpoint.
pub trait Learner: Send {
    /// Refines the reward model on preferences.
    ///
    /// # Errors
    /// [`StepError::Cancelled`] when it was asked to stop, else why it cannot be done.
    fn refine(&mut self, task: Refinement, watch: &mut Watch) -> Result<Learnt, StepError>;

    /// Tunes the policy against the reward model.
    ///
    /// # Errors
    /// As `refine`.
    fn tune(&mut self, task: Tuning, watch: &mut Watch) -> Result<Learnt, StepError>;
}

/// What the reward model is to learn.
#[derive(Debug, Clone)]
pub struct Refinement {
    /// The adapter of the current reward model, which is trained further.
    pub adapter: Option<Arc<LoraAdapter>>,
    /// What the feedback of all rounds so far came to.
    pub feedback: Vec<Preference>,
    /// The preferences that the reward model was first trained on.
    pub original: Vec<Preference>,
    /// How it is trained.
    pub hyperparameters: Hyperparameters,
    /// The checkpoint to go on from.
    pub resume: Option<Vec<u8>>,
}

/// What the policy is to learn.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// The experiment, for seeds.
    pub experiment: ExperimentId,
    /// Its seed.
    pub seed: u64,
    /// The round.
    pub round: u32,
    /// The adapter of the current policy, which is trained further.
    pub policy: Option<Arc<LoraAdapter>>,
    /// The adapter of the current reward model.
    pub reward: Option<Arc<LoraAdapter>>,
    /// The prompts of the round with the policy's own answers.
    pub answered: Vec<CompletionsSampled>,
    /// What it aims at, and how it is trained.
    pub plan: TuningPlan,
    /// The checkpoint to go on from.
    pub resume: Option<Vec<u8>>,
}

/// The result of a training.
#[derive(Debug, Clone)]
pub struct Learnt {
    /// The new adapter, which takes the place of the one before.
    pub adapter: LoraAdapter,
    /// Fingerprint of the model with it.
    pub fingerprint: String,
    /// Preferences from feedback that it learnt from.
    pub preferences: u32,
    /// Preferences of the original data that it learnt from beside them.
    pub rehearsed: u32,
    /// Final figures, named as in TRL.
    pub metrics: BTreeMap<String, f64>,
}

/// Told how far a training is, and asked whether it should go on.
pub struct Watch {
    /// Who is told, and where checkpoints are kept; none: nobody asks, and none is kept.
    watcher: Option<(mpsc::Sender<Report>, ArtifactStore)>,
    cancel: CancelFlag,
    /// Of the pipeline, and of this attempt alone.
    stop: [Arc<AtomicBool>; 2],
}

impl Watch {
    pub(super) fn new(
        reports: mpsc::Sender<Report>,
        artifacts: ArtifactStore,
        cancel: CancelFlag,
        stop: [Arc<AtomicBool>; 2],
    ) -> Self {
        Self { watcher: Some((reports, artifacts)), cancel, stop }
    }

    /// Of a training that nobody watches, until it is cancelled.
    pub(crate) fn unwatched(cancel: CancelFlag) -> Self {
        Self { watcher: None, cancel, stop: Default::default() }
    }

    /// Whether the training should end at its next step, after a checkpoint.
    #[must_use]
    pub fn should_stop(&self) -> bool {
        self.stop.iter().any(|stop| stop.load(Ordering::Relaxed))
    }

    /// Breaks off a model's run.
    #[must_use]
    pub fn cancel(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// So many steps are done. Figures that are not finite are left out.
    ///
    /// # Errors
    /// [`StepError::Cancelled`] when nobody listens any more.
    pub fn progressed(
        &mut self,
        step: u64,
        steps: u64,
        metrics: BTreeMap<String, f64>,
    ) -> Result<(), StepError> {
        self.report(Report::Progressed { step, steps, checkpoint: None, metrics })
    }

    /// Keeps a checkpoint, taken after so many steps, where somebody watches: durable on return, and soon in the log.
    ///
    /// # Errors
    /// If it cannot be kept, or nobody listens any more.
    pub fn checkpoint(&mut self, step: u64, steps: u64, bytes: &[u8]) -> Result<(), StepError> {
        let Some((_, artifacts)) = &self.watcher else { return Ok(()) };
        let checkpoint = Some(artifacts.put_bytes(bytes).map_err(fatal)?.to_string());
        self.report(Report::Progressed { step, steps, checkpoint, metrics: BTreeMap::new() })
    }

    pub(super) fn report(&mut self, report: Report) -> Result<(), StepError> {
        let Some((reports, _)) = &self.watcher else { return Ok(()) };
        reports.blocking_send(report).map_err(|_| StepError::Cancelled)
    }
}
