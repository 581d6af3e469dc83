//! The configuration of an experiment: a TOML file, checked whole before anything starts.
//!
//! Relative paths are taken from the file's folder; `cache:` names the product's cache folder, `~/` the home
//! folder. Unknown keys are errors: a misspelt key would otherwise be a silent default.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings};
use dissent_domain::generation::SamplingParams;
use dissent_domain::id::ExperimentId;
use dissent_domain::reward::RewardKind;
use dissent_models::runtime::Provider;
use dissent_models::template::PromptTemplate;
use serde::Deserialize;

use crate::cli::BadInput;

/// `dissent run CONFIG.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is done.
    pub experiment: ExperimentConfig,
    /// On which prompts.
    pub prompts: PromptsConfig,
    /// Who answers.
    pub policy: PolicyConfig,
    /// Who scores.
    pub reward: RewardConfig,
    /// How answers are sampled.
    #[serde(default)]
    pub generation: GenerationConfig,
    /// How conflict is measured and selected.
    #[serde(default)]
    pub conflict: ConflictConfig,
    /// On what it runs.
    #[serde(default)]
    pub runtime: RuntimeConfig,
}

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

fn chat() -> String {
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

/// Most prompts worked on at once.
const BATCH_PROMPTS_MAX: usize = 64;

/// Most threads of one model run: far more than there are cores, they would take minutes to start.
pub(crate) const THREADS_MAX: usize = 256;

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or has an unknown key or a value out of range: exit code 2.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            BadInput(format!("failed to read the configuration {}: {error}", path.display()))
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let config =
            Self::parse(&text, folder).with_context(|| format!("failed to use {}", path.display()))?;
        Ok(config)
    }

    fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let mut config: Self =
            toml::from_str(text).map_err(|error| BadInput(error.to_string().trim_end().to_owned()))?;
        config.validate().map_err(|reason| anyhow::Error::new(BadInput(reason)))?;
        config.resolve_paths(folder)?;
        Ok(config)
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first key at fault, and what it may be.
    pub fn validate(&self) -> Result<(), String> {
        if self.experiment.rounds == 0 {
            return Err("experiment.rounds = 0: use at least 1".to_owned());
        }
        if self.experiment.rounds > 1 {
            return Err(format!(
                "experiment.rounds = {}: without feedback and training a further round would repeat the first; \
                 use 1",
                self.experiment.rounds
            ));
        }
        self.generation.sampling().validate().map_err(|error| format!("generation.{error}"))?;
        if !(1..=BATCH_PROMPTS_MAX).contains(&self.generation.batch_prompts) {
            return Err(format!(
                "generation.batch_prompts = {}: use 1 to {BATCH_PROMPTS_MAX}",
                self.generation.batch_prompts
            ));
        }
        if self.runtime.threads > THREADS_MAX {
            return Err(format!("runtime.threads = {}: use 0 to {THREADS_MAX}", self.runtime.threads));
        }
        template("policy", &self.policy.template)?;
        let reward = template("reward", &self.reward.template)?;
        check_reward_template(&reward).map_err(|reason| format!("reward.template: {reason}"))?;
        self.conflict.selection().validate().map_err(|error| format!("conflict: {error}"))
    }

    fn resolve_paths(&mut self, folder: &Path) -> anyhow::Result<()> {
        let required = [&mut self.prompts.path, &mut self.policy.path, &mut self.reward.path];
        let optional = [
            &mut self.experiment.data_dir,
            &mut self.policy.adapter,
            &mut self.reward.adapter,
            &mut self.runtime.onnxruntime,
        ];
        for path in required.into_iter().chain(optional.into_iter().flatten()) {
            *path = resolve(path, folder)?;
        }
        Ok(())
    }
}

fn template(section: &str, text: &str) -> Result<PromptTemplate, String> {
    text.parse().map_err(|error| format!("{section}.template: {error}"))
}

/// Refuses a template of a reward model that leaves out the answer.
///
/// # Errors
/// What it must name, and why.
pub(crate) fn check_reward_template(template: &PromptTemplate) -> Result<(), String> {
    if template.names_completion() {
        Ok(())
    } else {
        Err("the template of a reward model must name {completion}: what it scores is the answer".to_owned())
    }
}

/// Where a path in a configuration or an option points to.
///
/// # Errors
/// If it names the cache or home folder and there is none.
pub fn resolve(path: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let none =
        |what: &str, set: &str| BadInput(format!("{}: there is no {what} folder; set {set}", path.display()));
    let text = path.to_string_lossy();
    if let Some(rest) = text.strip_prefix("cache:") {
        let cache = dissent_models::cache::cache_dir().ok_or_else(|| none("cache", "DISSENT_CACHE"))?;
        Ok(cache.join(rest))
    } else if let Some(rest) = text.strip_prefix("~/") {
        let home = std::env::var_os("HOME").ok_or_else(|| none("home", "HOME"))?;
        Ok(PathBuf::from(home).join(rest))
    } else {
        Ok(folder.join(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"
        [experiment]
        name = "e"
        [prompts]
        path = "prompts.jsonl"
        [policy]
        path = "/models/policy.gguf"
        [reward]
        path = "cache:models/reward.gguf"
    "#;

    fn refused(change: impl Fn(&str) -> String) -> String {
        let error = Config::parse(&change(SMALLEST), Path::new("folder")).unwrap_err();
        assert!(error.chain().any(|cause| cause.is::<BadInput>()), "exit code 2: {error:#}");
        format!("{error:#}")
    }

    #[test]
    fn what_is_left_out_takes_the_papers_defaults() {
        let config = Config::parse(SMALLEST, Path::new("folder")).unwrap();
        assert_eq!(config.generation.sampling(), SamplingParams::default());
        assert_eq!(config.conflict.selection(), SelectionSettings::default());
        assert_eq!(config.experiment.rounds, 1);
    }

    #[test]
    fn paths_are_taken_from_the_files_folder_unless_they_say_otherwise() {
        let config = Config::parse(SMALLEST, Path::new("folder")).unwrap();
        assert_eq!(config.prompts.path, Path::new("folder/prompts.jsonl"));
        assert_eq!(config.policy.path, Path::new("/models/policy.gguf"));
        assert!(config.reward.path.ends_with("models/reward.gguf"));
        assert!(!config.reward.path.starts_with("folder"));
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let message = refused(|text| text.replace("name =", "nmae ="));
        assert!(message.contains("nmae") && message.contains("line 3"), "{message}");
    }

    #[test]
    fn values_out_of_range_are_named_with_what_is_allowed() {
        let of = |section: &str| refused(|text| format!("{text}\n{section}"));
        assert!(of("[generation]\ntop_p = 1.5").contains("generation.top_p = 1.5"));
        assert!(of("[generation]\nbatch_prompts = 0").contains("use 1 to 64"));
        assert!(of("[runtime]\nthreads = 100000").contains("runtime.threads = 100000"));
        assert!(of("[conflict]\nrule = \"budget\"").contains("budget"));
        assert!(refused(|text| text.replace("name = \"e\"", "name = \"../e\"")).contains("../e"));
    }

    #[test]
    fn a_template_that_cannot_work_is_named_by_its_key() {
        let of = |section: &str, template: &str| {
            refused(|text| text.replace(section, &format!("{section}\ntemplate = \"{template}\"")))
        };
        assert!(of("[policy]", "answer").contains("policy.template"), "it names no {{prompt}}");
        assert!(of("[reward]", "answer").contains("reward.template"), "it names no {{prompt}}");
        assert!(of("[reward]", "{prompt}").contains("must name {completion}"));
    }
}
