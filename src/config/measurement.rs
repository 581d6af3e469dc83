//! The sections about finding conflicts: what a run without feedback needs.

use std::path::PathBuf;

use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings};
use dissent_domain::generation::SamplingParams;
use dissent_domain::id::ExperimentId;
use dissent_domain::reward::RewardKind;
use dissent_models::runtime::Provider;
use serde::Deserialize;

/// `[experiment]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentConfig {
    /// Its name: the same name goes on where it stopped.
    pub name: ExperimentId,
    /// The seed of every random choice.
    #[serde(default)]
    pub seed: u64,
    /// Rounds to do.
    #[serde(default = "one")]
    pub rounds: u32,
    /// Folder of the event log and the artifacts.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
}

fn one() -> u32 {
    1
}

/// `[prompts]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptsConfig {
    /// JSON lines: `{"prompt_id"?, "prompt", "category"?}`.
    pub path: PathBuf,
}

/// `[policy]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// A PEFT LoRA folder.
    pub adapter: Option<PathBuf>,
    /// `chat`, `raw`, or a text naming `{prompt}`.
    #[serde(default = "chat")]
    pub template: String,
}

/// `[reward]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// Keep the first K layers only.
    pub layers: Option<u32>,
    /// A PEFT LoRA folder (SEQ_CLS, with its score head).
    pub adapter: Option<PathBuf>,
    /// `chat`, `raw`, or a text naming `{prompt}` and `{completion}`.
    #[serde(default = "chat")]
    pub template: String,
    /// `reward`, or `cost` for a model whose score is to be negated.
    #[serde(default)]
    pub kind: RewardKind,
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
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus.
    pub top_p: f64,
    /// 0 keeps all.
    pub top_k: u32,
    /// Most new tokens.
    pub max_new_tokens: u32,
    /// Prompts worked on at once: speed only, the result is the same.
    pub batch_prompts: usize,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        let SamplingParams { samples, temperature, top_p, top_k, max_new_tokens } = SamplingParams::default();
        Self { samples, temperature, top_p, top_k, max_new_tokens, batch_prompts: 4 }
    }
}

impl GenerationConfig {
    /// The part that determines what is sampled.
    #[must_use]
    pub fn sampling(&self) -> SamplingParams {
        SamplingParams {
            samples: self.samples,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            max_new_tokens: self.max_new_tokens,
        }
    }
}

/// `[conflict]`: which log-probability is compared with the reward, and what is selected.
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
    /// Most pairs to select.
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
    /// What is chosen for feedback.
    #[must_use]
    pub fn selection(&self) -> SelectionSettings {
        let Self { rule, delta, tau, budget, quantile, .. } = *self;
        SelectionSettings { rule, delta, tau, budget, quantile }
    }
}

/// `[runtime]`: on what it runs; none of it changes a result.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// `cpu`, `cuda` or `auto`.
    pub provider: Provider,
    /// Threads of one model run; 0: one for each physical core.
    pub threads: usize,
    /// The ONNX Runtime library; found by itself where it is installed.
    pub onnxruntime: Option<PathBuf>,
}
