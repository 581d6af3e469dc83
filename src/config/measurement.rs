//! The sections about measuring conflict, which suffice for a run without feedback.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings};
use dissent_domain::generation::SamplingParams;
use dissent_domain::id::ExperimentId;
use dissent_domain::reward::{RewardKind, RewardOutput};
use dissent_domain::weight_form::WeightForm;
use dissent_models::runtime::{ComputeType, Provider};
use serde::Deserialize;

use super::{ConfigError, KeyErrorKind};

/// `[experiment]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentConfig {
    /// The name. A second run with the same name continues the experiment.
    pub name: ExperimentId,
    /// The seed of every random choice.
    #[serde(default)]
    pub seed: u64,
    /// Number of rounds.
    #[serde(default = "one")]
    pub rounds: u32,
    /// The folder of the event log and the artifacts.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
}

impl ExperimentConfig {
    /// Reads this section of a configuration, and nothing else of it.
    ///
    /// # Errors
    /// If the file cannot be read or is not TOML, or its `[experiment]` is missing or invalid.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::read(path, source))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::of_file(&text, folder).with_context(|| format!("failed to use {}", path.display()))
    }

    fn of_file(text: &str, folder: &Path) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct File {
            experiment: Option<ExperimentConfig>,
        }

        let file: File = toml::from_str(text)?;
        let mut experiment = file.experiment.ok_or_else(|| {
            let reason = "[experiment] is missing: give the configuration of an experiment, or its name";
            ConfigError::key("[experiment]", KeyErrorKind::Missing, reason)
        })?;
        if let Some(data_dir) = &mut experiment.data_dir {
            *data_dir = super::resolve(data_dir, folder)?;
        }
        Ok(experiment)
    }
}

fn one() -> u32 {
    1
}

/// `[prompts]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptsConfig {
    /// JSON Lines of `{"prompt_id"?, "prompt", "system"?, "category"?}`.
    pub path: PathBuf,
    /// Further fields of the rows that are not read. Any other field is an error.
    #[serde(default)]
    pub ignore: Vec<String>,
}

/// `[policy]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// A PEFT LoRA folder.
    pub adapter: Option<PathBuf>,
    /// `chat`, `raw`, or a text with `{prompt}`.
    #[serde(default = "chat")]
    pub template: String,
    /// The weights that sample: `f32`, `as-stored` (of a quantised GGUF file) or `int8`.
    #[serde(default)]
    pub weights: WeightForm,
}

/// `[reward]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// Number of first layers to keep; all if omitted.
    pub layers: Option<u32>,
    /// A PEFT LoRA folder (SEQ_CLS, with a score head).
    pub adapter: Option<PathBuf>,
    /// `chat`, `raw`, or a text with `{prompt}` and `{completion}`.
    #[serde(default = "chat")]
    pub template: String,
    /// `reward`, or `cost` if the model's score must be negated.
    #[serde(default)]
    pub kind: RewardKind,
    /// The output that is the score, counted from 0, of a model with several.
    pub label: Option<u32>,
    /// The weight of each output in the score, of a model with several.
    pub weights: Option<Vec<f64>>,
}

impl RewardConfig {
    /// Returns the outputs of the model that make up its score; `None`: it has only one.
    #[must_use]
    pub fn output(&self) -> Option<RewardOutput> {
        let weights = self.weights.clone().map(RewardOutput::Weights);
        self.label.map(RewardOutput::Label).or(weights)
    }
}

pub(super) fn chat() -> String {
    "chat".to_owned()
}

/// `[generation]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationConfig {
    /// Completions per prompt.
    pub samples: u32,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Probability mass of nucleus sampling, in (0, 1].
    pub top_p: f64,
    /// Number of most likely tokens to sample from; 0 keeps all.
    pub top_k: u32,
    /// Maximum number of new tokens in a completion.
    pub max_new_tokens: u32,
    /// Texts that end a completion, beside the model's stop tokens.
    pub stop: Vec<String>,
    /// Prompts per batch, 1 to 64. The batch size changes speed, not results.
    pub batch_prompts: usize,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        let SamplingParams { samples, temperature, top_p, top_k, max_new_tokens, stop } =
            SamplingParams::default();
        Self { samples, temperature, top_p, top_k, max_new_tokens, stop, batch_prompts: 4 }
    }
}

impl GenerationConfig {
    /// Returns the settings that determine the completions.
    #[must_use]
    pub fn sampling(&self) -> SamplingParams {
        SamplingParams {
            samples: self.samples,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
        }
    }
}

/// `[conflict]`: the log-probability to compare with the reward, and the selection rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConflictConfig {
    /// `sum` or `mean`.
    pub logprob: LogprobKind,
    /// The selection rule.
    pub rule: Rule,
    /// Threshold on |PACS| (or on mean|PACS|).
    pub delta: Option<f64>,
    /// Threshold on the Kendall-tau distance.
    pub tau: Option<f64>,
    /// Maximum number of pairs to select.
    pub budget: Option<u64>,
    /// Quantile of |PACS| above which pairs are selected.
    pub quantile: f64,
}

impl Default for ConflictConfig {
    fn default() -> Self {
        let SelectionSettings { rule, delta, tau, budget, quantile } = SelectionSettings::default();
        Self { logprob: LogprobKind::default(), rule, delta, tau, budget, quantile }
    }
}

impl ConflictConfig {
    /// Returns the settings of the selection.
    #[must_use]
    pub fn selection(&self) -> SelectionSettings {
        let Self { rule, delta, tau, budget, quantile, .. } = *self;
        SelectionSettings { rule, delta, tau, budget, quantile }
    }
}

/// `[runtime]`: processor, threads and library. On one processor only `dtype` changes a result.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// `cpu`, `cuda` or `auto`.
    pub provider: Provider,
    /// Index of the GPU, from 0, for `cuda`.
    pub device: u32,
    /// `auto`, `f32`, `bf16` or `f16`: the numbers that models compute with. The CPU has `f32`.
    pub dtype: ComputeType,
    /// Threads of one model run; 0 uses one per physical core.
    pub threads: usize,
    /// The path of the ONNX Runtime library; searched for if omitted.
    pub onnxruntime: Option<PathBuf>,
}
