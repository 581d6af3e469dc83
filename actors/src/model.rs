//! Models in the course of an experiment: which version is current, and sessions with its adapter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dissent_domain::event::Stage;
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::ModelVersion;
use dissent_models::ModelError;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::{Checkpoint, TextTokenizer};
use dissent_models::generation::Generator;
use dissent_models::runtime::{OnnxRuntime, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel};
use dissent_storage::{ArtifactId, ArtifactStore};

use crate::journal::States;
use crate::step::StepError;

/// Largest adapter artifact, in bytes: adapters are held in memory.
pub(crate) const ADAPTER_BYTES_MAX: u64 = 4 << 30;

/// A model that sessions are opened of: a checkpoint, and the adapter that the experiment began with.
#[derive(Clone)]
pub struct Base {
    /// Runs it.
    pub runtime: &'static OnnxRuntime,
    /// The checkpoint.
    pub checkpoint: Arc<Checkpoint>,
    /// The adapter of the plan; later versions take its place.
    pub adapter: Option<Arc<LoraAdapter>>,
    /// How sessions run.
    pub options: SessionOptions,
}

/// The fingerprint of a checkpoint together with an adapter.
#[must_use]
pub fn fingerprint(checkpoint: &Checkpoint, adapter: Option<&LoraAdapter>) -> String {
    let Some(adapter) = adapter else { return checkpoint.fingerprint.clone() };
    let both = format!("{}+{}", checkpoint.fingerprint, adapter.fingerprint);
    blake3::hash(both.as_bytes()).to_hex().to_string()
}

impl Base {
    /// Fingerprint of the model as the experiment began with it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.checkpoint, self.adapter.as_deref())
    }

    /// Its tokenizer, shared.
    #[must_use]
    pub fn tokenizer(&self) -> Arc<TextTokenizer> {
        Arc::new(self.checkpoint.tokenizer.clone())
    }

    pub(crate) fn generator(&self, adapter: Option<&LoraAdapter>) -> Result<Generator, ModelError> {
        // Not a session whose adapters take turns: its completions would depend on what is sampled beside them.
        Generator::open(self.runtime, &self.checkpoint, adapter, &self.options)
    }

    pub(crate) fn scorer(&self, adapter: Option<&LoraAdapter>) -> Result<PolicyScorer, ModelError> {
        PolicyScorer::open(self.runtime, &self.checkpoint, adapter, &self.options)
    }

    pub(crate) fn reward_model(&self, adapter: Option<&LoraAdapter>) -> Result<RewardModel, ModelError> {
        RewardModel::open(self.runtime, &self.checkpoint, adapter, &self.options)
    }
}

/// Which versions of an experiment's models are current, and where their adapters lie.
#[derive(Clone)]
pub(crate) struct Versions {
    pub(crate) states: States,
    pub(crate) experiment: ExperimentId,
    pub(crate) artifacts: ArtifactStore,
}

impl Versions {
    /// The policy that answers now.
    pub(crate) fn policy(&self) -> Result<ModelVersion, StepError> {
        self.states.policy(&self.experiment).ok_or_else(not_started)
    }

    /// The reward model that scores now.
    pub(crate) fn reward_model(&self) -> Result<ModelVersion, StepError> {
        self.states.reward_model(&self.experiment).ok_or_else(not_started)
    }

    /// The adapter of a version, which must make the model that the log names.
    pub(crate) fn adapter(
        &self,
        base: &Base,
        version: &ModelVersion,
    ) -> Result<Option<Arc<LoraAdapter>>, StepError> {
        let adapter = match &version.adapter {
            None => base.adapter.clone(),
            Some(artifact) => Some(Arc::new(self.read_adapter(artifact)?)),
        };
        let found = fingerprint(&base.checkpoint, adapter.as_deref());
        if found == version.fingerprint {
            return Ok(adapter);
        }
        Err(StepError::Fatal(format!(
            "the model that was opened is {found}, and the log goes on with {}: open the one that the experiment was begun \
             with",
            version.fingerprint
        )))
    }

    /// The adapter of the current model of a kind; none: it has none.
    pub(crate) fn current_adapter(
        &self,
        stage: Stage,
        base: &Base,
    ) -> Result<Option<Arc<LoraAdapter>>, StepError> {
        let version = match stage {
            Stage::Reward => self.reward_model()?,
            Stage::Policy => self.policy()?,
        };
        self.adapter(base, &version)
    }

    fn read_adapter(&self, artifact: &str) -> Result<LoraAdapter, StepError> {
        let bytes = self.read(artifact, ADAPTER_BYTES_MAX)?;
        LoraAdapter::from_artifact(&bytes)
            .map_err(|error| StepError::Fatal(format!("the adapter in artifact {artifact}: {error}")))
    }

    /// The bytes of an artifact, checked.
    pub(crate) fn read(&self, artifact: &str, bytes_max: u64) -> Result<Vec<u8>, StepError> {
        let id: ArtifactId = artifact.parse().map_err(fatal)?;
        self.artifacts.read(&id, bytes_max).map_err(fatal)
    }
}

fn not_started() -> StepError {
    StepError::Fatal("the experiment has not started".to_owned())
}

/// An error that ends the run, with its causes.
pub(crate) fn fatal(error: impl std::error::Error) -> StepError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    StepError::Fatal(text)
}

/// A model that several steps use in turn.
pub(crate) type Shared<T> = Arc<Mutex<T>>;

/// Takes a shared model. A step that panics stops the pipeline, so that nothing half-done is ever seen.
pub(crate) fn lock<T: ?Sized>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
