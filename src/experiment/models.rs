//! Opening the models of a configuration or of options.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use dissent_actors::{Base, ModelCache};
use dissent_domain::reward::RewardOutput;
use dissent_domain::weight_form::WeightForm;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules, TextTokenizer};
use dissent_models::runtime::{OnnxRuntime, SessionOptions};
use dissent_models::{InvalidKind, ModelError, cache};

use super::base_check::warn_of_other_base;
use crate::config::{Config, GoldConfig, RuntimeConfig};

/// An opened checkpoint with its adapter, without a session.
pub struct Model {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The same checkpoint with the weights that sample, if they are others.
    pub sampling: Option<Arc<Checkpoint>>,
    /// The adapter, if any.
    pub adapter: Option<LoraAdapter>,
    /// The names of checkpoint and adapter, shown to people.
    pub name: String,
    /// The hash of weights, kept layers and adapter.
    pub fingerprint: String,
}

impl Model {
    /// Opens a checkpoint and its adapter. The first time, a GGUF file is dequantised into the cache folder.
    ///
    /// # Errors
    /// If either cannot be read, or their shapes differ.
    pub fn open(path: &Path, layers: Option<u32>, adapter: Option<&Path>) -> Result<Self, ModelError> {
        Self::open_by(ReadingRules::default(), path, layers, adapter)
    }

    /// Opens a policy that only samples: as [`Model::open_policy`], with weights of any form.
    ///
    /// # Errors
    /// As [`Model::open_policy`] and [`Checkpoint::open_as`].
    pub fn open_sampler(path: &Path, adapter: Option<&Path>, form: WeightForm) -> Result<Self, ModelError> {
        Self::open_as(ReadingRules::default(), path, None, adapter, form)?.checked_policy(adapter)
    }

    /// As [`Model::open`], by given reading rules: an experiment and a resumed training keep theirs.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_by(
        reading: ReadingRules,
        path: &Path,
        layers: Option<u32>,
        adapter: Option<&Path>,
    ) -> Result<Self, ModelError> {
        Self::open_as(reading, path, layers, adapter, WeightForm::F32)
    }

    fn open_as(
        reading: ReadingRules,
        path: &Path,
        layers: Option<u32>,
        adapter: Option<&Path>,
        form: WeightForm,
    ) -> Result<Self, ModelError> {
        let options = OpenOptions { reading, ..open_options(layers)? };
        Self::with_adapter(Checkpoint::open_as(path, &options, form)?, path, &options, adapter)
    }

    /// As [`Model::open`], but dequantises nothing. No session can be opened; memory can be predicted.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn outline(path: &Path, layers: Option<u32>, adapter: Option<&Path>) -> Result<Self, ModelError> {
        let options = open_options(layers)?;
        Self::with_adapter(Checkpoint::outline(path, &options)?, path, &options, adapter)
    }

    /// As [`Model::outline`], for a policy.
    ///
    /// # Errors
    /// As [`Model::open_policy`].
    pub fn outline_policy(
        path: &Path,
        layers: Option<u32>,
        adapter: Option<&Path>,
    ) -> Result<Self, ModelError> {
        let model = Self::outline(path, layers, adapter)?;
        model.checkpoint.check_policy(model.adapter.as_ref())?;
        Ok(model)
    }

    fn with_adapter(
        checkpoint: Checkpoint,
        path: &Path,
        options: &OpenOptions,
        adapter: Option<&Path>,
    ) -> Result<Self, ModelError> {
        let mut name = file_name(path);
        if let Some(layers) = options.layers {
            name = format!("{name}, first {layers} layers");
        }
        let Some(adapter_dir) = adapter else {
            let fingerprint = checkpoint.fingerprint.clone();
            return Ok(Self { checkpoint, sampling: None, adapter: None, name, fingerprint });
        };
        let adapter = LoraAdapter::open(adapter_dir)?;
        adapter.check(&checkpoint.config)?;
        if let Some(named) = &adapter.base_model {
            warn_of_other_base(adapter_dir, named, &checkpoint, options);
        }
        Ok(Self {
            fingerprint: dissent_actors::fingerprint(&checkpoint, Some(&adapter)),
            name: format!("{name} + {}", file_name(adapter_dir)),
            checkpoint,
            sampling: None,
            adapter: Some(adapter),
        })
    }

    /// Opens the weights that sample, in a form other than f32.
    ///
    /// # Errors
    /// As [`Checkpoint::open_as`].
    fn sample_with(mut self, form: WeightForm) -> Result<Self, ModelError> {
        if !form.is_f32() {
            let options = OpenOptions { reading: self.checkpoint.reading, ..open_options(None)? };
            self.sampling = Some(Arc::new(Checkpoint::open_as(&self.checkpoint.source, &options, form)?));
        }
        Ok(self)
    }

    /// Opens a policy: as [`Model::open_by`], and checks that it has a language head and no adapter of a
    /// reward model.
    ///
    /// # Errors
    /// As [`Model::open`], or if the model or the adapter is of another role.
    pub fn open_policy_by(
        reading: ReadingRules,
        path: &Path,
        layers: Option<u32>,
        adapter: Option<&Path>,
    ) -> Result<Self, ModelError> {
        Self::open_by(reading, path, layers, adapter)?.checked_policy(adapter)
    }

    /// Checks that the model is a policy, with the adapter of this path.
    fn checked_policy(self, adapter: Option<&Path>) -> Result<Self, ModelError> {
        self.checkpoint.check_policy(None)?;
        if let Some(path) = adapter {
            let wrong =
                |error: ModelError| ModelError::File { path: path.to_owned(), reason: error.to_string() };
            self.checkpoint.check_policy(self.adapter.as_ref()).map_err(wrong)?;
        }
        Ok(self)
    }

    /// As [`Model::open_policy_by`], by the newest reading rules.
    ///
    /// # Errors
    /// As [`Model::open_policy_by`].
    pub fn open_policy(path: &Path, layers: Option<u32>, adapter: Option<&Path>) -> Result<Self, ModelError> {
        Self::open_policy_by(ReadingRules::default(), path, layers, adapter)
    }

    /// Chooses the outputs of a reward model that make up its score; `None` if it has only one.
    ///
    /// # Errors
    /// If the reward head has an unknown form, several outputs without a choice, or not the chosen ones.
    pub fn choose_output(mut self, output: Option<RewardOutput>) -> anyhow::Result<Self> {
        let outputs = self.checkpoint.reward_outputs(self.adapter.as_ref())?.unwrap_or(1);
        match &output {
            Some(output) => {
                output.factors(outputs).with_context(|| self.name.clone())?;
            }
            None if outputs > 1 => {
                let reason = format!(
                    "the reward head of {} has {outputs} outputs: choose one by its label, or give a weight to each",
                    self.name
                );
                return Err(ModelError::invalid(InvalidKind::ShapeMismatch, reason).into());
            }
            None => {}
        }
        self.checkpoint.reward_output = output;
        Ok(self)
    }

    /// Returns the parts from which sessions of the model are opened. Models of one cache share their
    /// checkpoints and sessions.
    #[must_use]
    pub fn base(&self, runtime: &'static OnnxRuntime, options: &SessionOptions, cache: &ModelCache) -> Base {
        Base {
            runtime,
            checkpoint: cache.share(&self.checkpoint),
            sampling: self.sampling.as_deref().map(|sampling| cache.share(sampling)),
            adapter: self.adapter.clone().map(Arc::new),
            options: options.clone(),
            cache: cache.clone(),
        }
    }

    /// Returns a shared tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> Arc<TextTokenizer> {
        Arc::new(self.checkpoint.tokenizer.clone())
    }
}

/// The opened models of an experiment, without sessions.
pub struct Models {
    /// The policy.
    pub policy: Model,
    /// The proxy reward model.
    pub reward: Model,
    /// The gold reward model, if the gold reward is a model.
    pub gold: Option<Model>,
    /// The rules by which their files were read.
    pub reading: ReadingRules,
}

impl Models {
    /// Opens the models of a configuration by the reading rules of its experiment.
    ///
    /// # Errors
    /// If a model cannot be read.
    pub fn open(config: &Config, reading: ReadingRules) -> anyhow::Result<Self> {
        let (policy, reward) = (&config.policy, &config.reward);
        let gold = match &config.gold {
            Some(GoldConfig::Model(gold)) => {
                let opened = Model::open_by(reading, &gold.path, gold.layers, gold.adapter.as_deref())
                    .context("failed to open the gold reward model")?;
                Some(opened.choose_output(gold.output()).context("[gold]")?)
            }
            Some(GoldConfig::Sentiment(_) | GoldConfig::Answers(_)) | None => None,
        };
        Ok(Self {
            reading,
            gold,
            policy: Model::open_policy_by(reading, &policy.path, None, policy.adapter.as_deref())
                .and_then(|model| model.sample_with(policy.weights))
                .context("failed to open the policy")?,
            reward: Model::open_by(reading, &reward.path, reward.layers, reward.adapter.as_deref())
                .context("failed to open the reward model")?
                .choose_output(reward.output())
                .context("[reward]")?,
        })
    }

    /// As [`Models::open`], but dequantises nothing: see [`Model::outline`].
    ///
    /// # Errors
    /// As [`Models::open`].
    pub fn outline(config: &Config) -> anyhow::Result<Self> {
        let (policy, reward) = (&config.policy, &config.reward);
        let gold = match &config.gold {
            Some(GoldConfig::Model(gold)) => {
                Some(Model::outline(&gold.path, gold.layers, gold.adapter.as_deref()).context("[gold]")?)
            }
            Some(GoldConfig::Sentiment(_) | GoldConfig::Answers(_)) | None => None,
        };
        Ok(Self {
            reading: ReadingRules::default(),
            gold,
            policy: Model::outline_policy(&policy.path, None, policy.adapter.as_deref())
                .context("[policy]")?,
            reward: Model::outline(&reward.path, reward.layers, reward.adapter.as_deref())
                .context("[reward]")?
                .choose_output(reward.output())
                .context("[reward]")?,
        })
    }
}

/// Returns the options for opening a checkpoint, with the cache folder.
///
/// # Errors
/// If no cache folder is set.
pub fn open_options(layers: Option<u32>) -> Result<OpenOptions, ModelError> {
    let cache_dir = cache::cache_dir().ok_or_else(|| {
        ModelError::invalid(
            InvalidKind::Setting,
            "no cache folder is set: set DISSENT_CACHE to a writable folder",
        )
    })?;
    Ok(OpenOptions { layers, cache_dir, reading: ReadingRules::default() })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Loads ONNX Runtime. Returns it with the options of sessions.
///
/// # Errors
/// If the library is missing or unusable; the message has the searched paths and the way out.
pub fn runtime(
    config: &RuntimeConfig,
    rows: usize,
) -> Result<(&'static OnnxRuntime, SessionOptions), ModelError> {
    let runtime = OnnxRuntime::load(config.onnxruntime.as_deref())?;
    let &RuntimeConfig { provider, device, dtype, threads, .. } = config;
    Ok((runtime, SessionOptions { provider, device, dtype, threads, rows }))
}
