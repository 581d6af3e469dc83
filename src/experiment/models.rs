//! Opening models as configuration and options name them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use dissent_actors::Base;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, TextTokenizer};
use dissent_models::runtime::{OnnxRuntime, SessionOptions};
use dissent_models::{InvalidKind, ModelError, cache};

use crate::config::{Config, GoldConfig, RuntimeConfig};

/// A checkpoint with its adapter, not yet running.
pub struct Model {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The adapter, if any.
    pub adapter: Option<LoraAdapter>,
    /// For people: the file or folder name, and the adapter's.
    pub name: String,
    /// Of what it computes: weights, kept layers, adapter.
    pub fingerprint: String,
}

impl Model {
    /// Opens a checkpoint (a GGUF file is dequantised the first time) and its adapter.
    ///
    /// # Errors
    /// If either cannot be read, or they do not fit together.
    pub fn open(path: &Path, layers: Option<u32>, adapter: Option<&Path>) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(path, &open_options(layers)?)?;
        let mut name = file_name(path);
        if let Some(layers) = layers {
            name = format!("{name}, first {layers} layers");
        }
        let Some(adapter_dir) = adapter else {
            let fingerprint = checkpoint.fingerprint.clone();
            return Ok(Self { checkpoint, adapter: None, name, fingerprint });
        };
        let adapter = LoraAdapter::open(adapter_dir)?;
        adapter.check(&checkpoint.config)?;
        Ok(Self {
            fingerprint: dissent_actors::fingerprint(&checkpoint, Some(&adapter)),
            name: format!("{name} + {}", file_name(adapter_dir)),
            checkpoint,
            adapter: Some(adapter),
        })
    }

    /// What its sessions are opened of.
    #[must_use]
    pub fn base(&self, runtime: &'static OnnxRuntime, options: &SessionOptions) -> Base {
        Base {
            runtime,
            checkpoint: Arc::new(self.checkpoint.clone()),
            adapter: self.adapter.clone().map(Arc::new),
            options: options.clone(),
        }
    }

    /// Its tokenizer, shared.
    #[must_use]
    pub fn tokenizer(&self) -> Arc<TextTokenizer> {
        Arc::new(self.checkpoint.tokenizer.clone())
    }
}

/// The models of an experiment, opened but not running.
pub struct Models {
    /// The policy.
    pub policy: Model,
    /// The proxy reward model.
    pub reward: Model,
    /// The model whose reward stands for the truth, if one does.
    pub gold: Option<Model>,
}

impl Models {
    /// Opens them.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let (policy, reward) = (&config.policy, &config.reward);
        let gold = match &config.gold {
            Some(GoldConfig::Model(gold)) => {
                let opened = Model::open(&gold.path, gold.layers, gold.adapter.as_deref());
                Some(opened.context("the gold reward model")?)
            }
            Some(GoldConfig::Sentiment(_) | GoldConfig::Answers(_)) | None => None,
        };
        Ok(Self {
            gold,
            policy: Model::open(&policy.path, None, policy.adapter.as_deref()).context("the policy")?,
            reward: Model::open(&reward.path, reward.layers, reward.adapter.as_deref())
                .context("the reward model")?,
        })
    }
}

/// How checkpoints are opened: in the product's cache folder.
///
/// # Errors
/// If there is none.
pub fn open_options(layers: Option<u32>) -> Result<OpenOptions, ModelError> {
    let cache_dir = cache::cache_dir().ok_or_else(|| {
        ModelError::invalid(
            InvalidKind::Setting,
            "no cache folder is set: set DISSENT_CACHE to a writable folder",
        )
    })?;
    Ok(OpenOptions { layers, cache_dir })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// ONNX Runtime, and how sessions run on it.
///
/// # Errors
/// If the library is missing or unusable: the message says what was searched and the way out.
pub fn runtime(
    config: &RuntimeConfig,
    rows: usize,
) -> Result<(&'static OnnxRuntime, SessionOptions), ModelError> {
    let runtime = OnnxRuntime::load(config.onnxruntime.as_deref())?;
    Ok((runtime, SessionOptions { provider: config.provider, threads: config.threads, rows }))
}
