//! The versions of the models of an experiment: which one is current, and sessions with its adapter.

use std::sync::Arc;

use dissent_domain::event::Stage;
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::ModelVersion;
use dissent_models::ModelError;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::{Checkpoint, TensorRef, TextTokenizer};
use dissent_models::generation::Generator;
use dissent_models::runtime::{OnnxRuntime, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel};
use dissent_storage::{ArtifactId, ArtifactStore};

use super::cache::{ModelCache, ModelHandle, ModelKey};
use crate::error::{StepError, StepFault};
use crate::state::States;

/// Largest adapter artifact, in bytes: adapters are held in memory.
pub(crate) const ADAPTER_BYTES_MAX: u64 = 4 << 30;

/// The base of the sessions of a model: a checkpoint, and the adapter that the experiment began with.
#[derive(Clone)]
pub struct Base {
    /// The runtime of its sessions.
    pub runtime: &'static OnnxRuntime,
    /// The checkpoint, with weights f32.
    pub checkpoint: Arc<Checkpoint>,
    /// The same checkpoint with the weights that sample; `None` if `checkpoint` samples.
    pub sampling: Option<Arc<Checkpoint>>,
    /// The adapter of the plan; later versions replace it.
    pub adapter: Option<Arc<LoraAdapter>>,
    /// Options of its sessions.
    pub options: SessionOptions,
    /// The loaded models of the process, which experiments share.
    pub cache: ModelCache,
}

/// The fingerprint of a checkpoint together with an adapter.
#[must_use]
pub fn fingerprint(checkpoint: &Checkpoint, adapter: Option<&LoraAdapter>) -> String {
    let Some(adapter) = adapter else { return checkpoint.fingerprint.clone() };
    let both = format!("{}+{}", checkpoint.fingerprint, adapter.fingerprint);
    blake3::hash(both.as_bytes()).to_hex().to_string()
}

impl Base {
    /// Fingerprint of the model that the experiment began with.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.checkpoint, self.adapter.as_deref())
    }

    /// Returns the model's tokenizer, shared.
    #[must_use]
    pub fn tokenizer(&self) -> Arc<TextTokenizer> {
        Arc::new(self.checkpoint.tokenizer.clone())
    }

    /// The session that samples with this adapter, shared by all experiments that use it.
    pub(crate) fn generator(&self, adapter: Option<Arc<LoraAdapter>>) -> ModelHandle<Generator> {
        // Not a session that switches adapters: a completion would depend on the other rows of its batch.
        let checkpoint = self.sampling.as_ref().unwrap_or(&self.checkpoint);
        self.handle("generator", checkpoint, adapter, |base, checkpoint, adapter| {
            Generator::open(base.runtime, checkpoint, adapter, &base.options)
        })
    }

    pub(crate) fn scorer(&self, adapter: Option<Arc<LoraAdapter>>) -> ModelHandle<PolicyScorer> {
        self.handle("scorer", &self.checkpoint, adapter, |base, checkpoint, adapter| {
            PolicyScorer::open(base.runtime, checkpoint, adapter, &base.options)
        })
    }

    pub(crate) fn reward_model(&self, adapter: Option<Arc<LoraAdapter>>) -> ModelHandle<RewardModel> {
        self.handle("reward", &self.checkpoint, adapter, |base, checkpoint, adapter| {
            RewardModel::open(base.runtime, checkpoint, adapter, &base.options)
        })
    }

    fn handle<T: Send + 'static>(
        &self,
        task: &str,
        checkpoint: &Arc<Checkpoint>,
        adapter: Option<Arc<LoraAdapter>>,
        open: fn(&Self, &Checkpoint, Option<&LoraAdapter>) -> Result<T, ModelError>,
    ) -> ModelHandle<T> {
        let key = self.key(task, checkpoint, adapter.as_deref());
        let (bytes, base, checkpoint) = (weight_bytes(checkpoint), self.clone(), checkpoint.clone());
        self.cache.handle(key, bytes, move || open(&base, &checkpoint, adapter.as_deref()))
    }

    /// Everything that the numbers of a session depend on, and its task.
    fn key(&self, task: &str, checkpoint: &Checkpoint, adapter: Option<&LoraAdapter>) -> ModelKey {
        let model = fingerprint(checkpoint, adapter);
        let (reading, output) = (checkpoint.reading, &checkpoint.reward_output);
        let packed = checkpoint.weights.packed_count();
        ModelKey(format!("{task} {model} {packed} {reading:?} {output:?} {:?}", self.options))
    }
}

/// The size of the weights of a session, in bytes: floats of 32 bits, and packed matrices as they are.
fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
    let floats = |tensor: &TensorRef| tensor.shape.iter().map(|&length| length as u64).product::<u64>() * 4;
    let packed = |name: &str| {
        checkpoint
            .weights
            .packed(name)
            .map(|matrix| (matrix.outputs * matrix.inputs * matrix.bits / 8) as u64)
    };
    checkpoint.weights.iter().map(|(name, tensor)| packed(name).unwrap_or_else(|| floats(tensor))).sum()
}

/// The current versions of the models of an experiment, and the store of their adapters.
#[derive(Clone)]
pub(crate) struct Versions {
    pub(crate) states: States,
    pub(crate) experiment: ExperimentId,
    pub(crate) artifacts: ArtifactStore,
}

impl Versions {
    /// The current policy.
    pub(crate) fn policy(&self) -> Result<ModelVersion, StepError> {
        self.states.policy(&self.experiment).ok_or_else(not_started)
    }

    /// The current reward model.
    pub(crate) fn reward_model(&self) -> Result<ModelVersion, StepError> {
        self.states.reward_model(&self.experiment).ok_or_else(not_started)
    }

    /// The adapter of a version; an error if it does not make the model that the log names.
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
        Err(StepError::fatal(StepFault::WrongModel { found, expected: version.fingerprint.clone() }))
    }

    /// The adapter of the current model of a stage; `None` if that model has no adapter.
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
        LoraAdapter::from_artifact(&bytes).map_err(|error| {
            let (artifact, source) = (artifact.to_owned(), Arc::new(error));
            StepError::fatal(StepFault::Adapter { artifact, source })
        })
    }

    /// The bytes of an artifact, after their hash is checked.
    pub(crate) fn read(&self, artifact: &str, bytes_max: u64) -> Result<Vec<u8>, StepError> {
        let id: ArtifactId = artifact.parse().map_err(StepError::fatal)?;
        self.artifacts.read(&id, bytes_max).map_err(StepError::fatal)
    }
}

fn not_started() -> StepError {
    StepError::fatal(StepFault::NotStarted)
}
