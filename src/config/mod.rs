//! The configuration of an experiment: a TOML file, checked completely before anything starts.
//!
//! Relative paths start at the folder of the file. `cache:` is the cache folder of Dissent, `~/` the home
//! folder. Unknown keys are errors, because a misspelt key would otherwise silently become a default.

mod artifacts;
mod broker;
mod learning;
mod learning_checks;
mod measurement;
mod paths;
mod template;
mod training;
mod worker;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::plan::GuardPlan;
use serde::Deserialize;

use crate::error::BadInput;

pub use artifacts::ArtifactsConfig;
pub use broker::{BrokerConfig, RabbitConfig};
pub use learning::{
    EvaluationConfig, FeedbackConfig, GoldAnswersConfig, GoldConfig, GoldModelConfig, GoldSentimentConfig,
    LearningConfig, RefinementConfig, TuningConfig,
};
pub use measurement::{
    ConflictConfig, ExperimentConfig, GenerationConfig, PolicyConfig, PromptsConfig, RewardConfig,
    RuntimeConfig,
};
pub use paths::resolve;
pub(crate) use template::check_reward_template;
pub use training::LoraConfig;
pub(crate) use worker::WorkerConfig;

/// A configuration file, as `dissent run CONFIG.toml` reads it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name, seed, rounds and data folder.
    pub experiment: ExperimentConfig,
    /// The prompts of the experiment.
    pub prompts: PromptsConfig,
    /// The model that is tuned.
    pub policy: PolicyConfig,
    /// The proxy reward model.
    pub reward: RewardConfig,
    /// Sampling of completions.
    #[serde(default)]
    pub generation: GenerationConfig,
    /// Measurement of conflict and selection of pairs.
    #[serde(default)]
    pub conflict: ConflictConfig,
    /// The source of judgements. Without it, the experiment measures and reports conflict only.
    pub feedback: Option<FeedbackConfig>,
    /// The gold reward.
    pub gold: Option<GoldConfig>,
    /// Refinement of the reward model on feedback.
    #[serde(default)]
    pub refinement: RefinementConfig,
    /// Tuning of the policy against the refined reward model.
    pub tuning: Option<TuningConfig>,
    /// Evaluation on held-out prompts.
    pub evaluation: Option<EvaluationConfig>,
    /// Conditions for warnings and for an end before the last round.
    #[serde(default)]
    pub guards: GuardPlan,
    /// Device, threads and library of ONNX Runtime.
    #[serde(default)]
    pub runtime: RuntimeConfig,
    /// The message broker between processes.
    #[serde(default)]
    pub broker: BrokerConfig,
    /// The artifact store that processes share.
    #[serde(default)]
    pub artifacts: ArtifactsConfig,
}

/// Largest `generation.batch_prompts`.
const BATCH_PROMPTS_MAX: usize = 64;

/// Maximum number of rounds. A policy drifts far from its start long before that.
pub(crate) const ROUNDS_MAX: u32 = 1000;

/// Maximum number of threads of one model run. Far more threads than cores would take minutes to start.
pub(crate) const THREADS_MAX: usize = 256;

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, or has an unknown key or a value out of range.
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
        let mut config = Self::unresolved(text)?;
        config.resolve_paths(folder)?;
        Ok(config)
    }

    /// Parses and checks a text, and keeps its paths as written.
    ///
    /// # Errors
    /// If the text is not TOML, or has an unknown key or a value out of range.
    pub(crate) fn unresolved(text: &str) -> anyhow::Result<Self> {
        let config: Self =
            toml::from_str(text).map_err(|error| BadInput(error.to_string().trim_end().to_owned()))?;
        config.validate().map_err(|reason| anyhow::Error::new(BadInput(reason)))?;
        Ok(config)
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first invalid key, with its allowed values.
    pub fn validate(&self) -> Result<(), String> {
        if self.experiment.rounds == 0 {
            return Err("experiment.rounds = 0: use at least 1".to_owned());
        }
        if self.experiment.rounds > ROUNDS_MAX {
            return Err(format!("experiment.rounds = {}: use 1 to {ROUNDS_MAX}", self.experiment.rounds));
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
        template::parse("policy", &self.policy.template)?;
        let reward = template::parse("reward", &self.reward.template)?;
        check_reward_template(&reward).map_err(|reason| format!("reward.template: {reason}"))?;
        self.conflict.selection().validate().map_err(|error| format!("conflict: {error}"))?;
        self.broker.validate()?;
        self.artifacts.validate()?;
        self.validate_learning()
    }

    fn resolve_paths(&mut self, folder: &Path) -> anyhow::Result<()> {
        for path in self.inputs_mut() {
            *path = resolve(path, folder)?;
        }
        let local = [&mut self.experiment.data_dir, &mut self.runtime.onnxruntime];
        for path in local.into_iter().flatten().chain(self.broker.url_file_mut()) {
            *path = resolve(path, folder)?;
        }
        Ok(())
    }

    /// Returns the paths of all inputs of the experiment: models, adapters, prompts, data.
    pub(crate) fn inputs_mut(&mut self) -> Vec<&mut PathBuf> {
        let gold = match &mut self.gold {
            Some(GoldConfig::Model(gold)) => [Some(&mut gold.path), gold.adapter.as_mut()],
            Some(GoldConfig::Answers(gold)) => [Some(&mut gold.path), None],
            Some(GoldConfig::Sentiment(_)) | None => [None, None],
        };
        let required = [&mut self.prompts.path, &mut self.policy.path, &mut self.reward.path];
        let optional = [
            self.policy.adapter.as_mut(),
            self.reward.adapter.as_mut(),
            self.refinement.data.as_mut(),
            self.evaluation.as_mut().map(|evaluation| &mut evaluation.prompts),
        ];
        required.into_iter().chain(optional.into_iter().flatten()).chain(gold.into_iter().flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::conflict::SelectionSettings;
    use dissent_domain::generation::SamplingParams;
    use dissent_domain::training::{LoraSettings, PolicyObjective, Warmup};

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
    fn omitted_settings_take_the_defaults_of_the_paper() {
        let config = Config::parse(SMALLEST, Path::new("folder")).unwrap();
        assert_eq!(config.generation.sampling(), SamplingParams::default());
        assert_eq!(config.conflict.selection(), SelectionSettings::default());
        assert_eq!(config.experiment.rounds, 1);
    }

    #[test]
    fn relative_paths_start_at_the_folder_of_the_file() {
        let config = Config::parse(SMALLEST, Path::new("folder")).unwrap();
        assert_eq!(config.prompts.path, Path::new("folder/prompts.jsonl"));
        assert_eq!(config.policy.path, Path::new("/models/policy.gguf"));
        assert!(config.reward.path.ends_with("models/reward.gguf"));
        assert!(!config.reward.path.starts_with("folder"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let message = refused(|text| text.replace("name =", "nmae ="));
        assert!(message.contains("nmae") && message.contains("line 3"), "{message}");
    }

    #[test]
    fn values_out_of_range_are_named_with_the_allowed_values() {
        let of = |section: &str| refused(|text| format!("{text}\n{section}"));
        assert!(of("[generation]\ntop_p = 1.5").contains("generation.top_p = 1.5"));
        assert!(of("[generation]\nbatch_prompts = 0").contains("use 1 to 64"));
        assert!(of("[runtime]\nthreads = 100000").contains("runtime.threads = 100000"));
        assert!(of("[conflict]\nrule = \"budget\"").contains("budget"));
        assert!(refused(|text| text.replace("name = \"e\"", "name = \"../e\"")).contains("../e"));
    }

    #[test]
    fn an_unusable_template_is_named_by_its_key() {
        let of = |section: &str, template: &str| {
            refused(|text| text.replace(section, &format!("{section}\ntemplate = \"{template}\"")))
        };
        assert!(of("[policy]", "answer").contains("policy.template"), "{{prompt}} is missing");
        assert!(of("[reward]", "answer").contains("reward.template"), "{{prompt}} is missing");
        assert!(of("[reward]", "{prompt}").contains("lacks {completion}"));
    }

    const LOOP: &str = r#"
        [feedback]
        source = "oracle"
        [gold]
        kind = "sentiment"
        [tuning]
        [evaluation]
        prompts = "held-out.jsonl"
    "#;

    fn learning(text: &str) -> Config {
        Config::parse(&format!("{SMALLEST}\n{text}"), Path::new("folder")).unwrap()
    }

    /// Returns the error for the learning sections with `from` replaced by `to`.
    fn refused_loop(from: &str, to: &str) -> String {
        assert!(LOOP.contains(from), "{from}");
        refused(|text| format!("{text}\n{}", LOOP.replace(from, to)))
    }

    #[test]
    fn omitted_training_settings_take_the_documented_defaults() {
        let config = learning(LOOP);
        let learning = config.learning().unwrap();
        let refinement = learning.refinement.hyperparameters(7, None);
        assert_eq!((refinement.learning_rate, refinement.seed, refinement.batch_size), (1e-4, 7, 8));
        let lora = refinement.lora.unwrap();
        assert_eq!(lora, LoraSettings { r: 8, alpha: 32.0, targets: Vec::new() });
        let tuning = learning.tuning.hyperparameters(7, None);
        assert_eq!(tuning.learning_rate.to_bits(), 1.41e-5_f64.to_bits());
        assert_eq!(tuning.lora.map(|lora| (lora.r, lora.alpha)), Some((16, 32.0)));
        assert_eq!(learning.tuning.objective(), PolicyObjective::default());
        assert_eq!(learning.evaluation_samples, config.generation.samples);
        assert_eq!((learning.feedback.overlap, learning.feedback.budget), (1, None));
        assert_eq!(learning.guards, GuardPlan::default());
        assert!(Config::parse(SMALLEST, Path::new(".")).unwrap().learning().is_none());
    }

    #[test]
    fn training_settings_override_those_of_the_adapter() {
        let text = LOOP.replace(
            "[tuning]",
            "[refinement]\ndata = \"pairs.jsonl\"\nlearning_rate = 2e-4\nwarmup_ratio = 0.1\nsteps = 5\nseed = 9\n\
             [refinement.lora]\nalpha = 64\n[tuning]\nmethod = \"grpo\"\nfull = true\nppo.samples = 4",
        );
        let config = learning(&text);
        let learning = config.learning().unwrap();
        let adapter = LoraSettings { r: 4, alpha: 16.0, targets: vec!["q_proj".to_owned()] };
        let refinement = learning.refinement.hyperparameters(7, Some(&adapter));
        assert_eq!((refinement.learning_rate, refinement.steps, refinement.seed), (2e-4, Some(5), 9));
        assert_eq!(refinement.warmup, Warmup::Ratio(0.1));
        assert_eq!(refinement.lora, Some(LoraSettings { alpha: 64.0, ..adapter }));
        let tuning = learning.tuning.hyperparameters(7, None);
        assert_eq!((tuning.lora, tuning.learning_rate), (None, 3e-6));
        assert_eq!(learning.tuning.objective().ppo.samples, 4);
        assert_eq!(learning.refinement.data.as_deref(), Some(Path::new("folder/pairs.jsonl")));
        assert_eq!(learning.evaluation.prompts, Path::new("folder/held-out.jsonl"));
    }

    #[test]
    fn rounds_need_feedback() {
        let rounds = |text: &str| text.replace("name = \"e\"", "name = \"e\"\nrounds = 3");
        assert!(refused(rounds).contains("experiment.rounds = 3: without [feedback]"));
        let config = Config::parse(&rounds(&format!("{SMALLEST}\n{LOOP}")), Path::new(".")).unwrap();
        assert_eq!(config.experiment.rounds, 3);
    }

    #[test]
    fn incompatible_sections_are_named() {
        assert!(refused_loop("[gold]\n        kind = \"sentiment\"", "").contains("needs [gold]"));
        assert!(refused_loop("[tuning]", "").contains("[tuning] is missing"));
        let no_evaluation = refused_loop("[evaluation]\n        prompts = \"held-out.jsonl\"", "");
        assert!(no_evaluation.contains("[evaluation] is missing"), "{no_evaluation}");
        for section in
            ["[gold]\nkind = \"sentiment\"", "[tuning]", "[refinement]\nsteps = 1", "[guards]\nkl_max = 1"]
        {
            let message = refused(|text| format!("{text}\n{section}"));
            assert!(message.contains("has no effect without [feedback]"), "{section}: {message}");
        }
        assert!(
            refused_loop("source = \"oracle\"", "source = \"oracle\"\noverlap = 2")
                .contains("feedback.overlap = 2")
        );
        let one_sample = refused_loop("[tuning]", "[generation]\nsamples = 1\n[tuning]");
        assert!(one_sample.contains("generation.samples = 1"), "{one_sample}");
        let patience = "[feedback]\nsource = \"people\"\n[tuning]\n[evaluation]\nprompts = \"h\"\n[guards]\ngold_patience = 2";
        assert!(refused(|text| format!("{text}\n{patience}")).contains("guards.gold_patience needs [gold]"));
    }

    #[test]
    fn each_invalid_key_of_a_training_is_named() {
        let of = |key: &str, section: &str, value: &str| {
            let section = if section == "tuning" {
                format!("[tuning]\n{value}")
            } else {
                format!("[refinement]\n{value}\n[tuning]")
            };
            let message = refused_loop("[tuning]", &section);
            assert!(message.contains(key), "{value}: {message}");
        };
        of("refinement.learning_rate = 0", "refinement", "learning_rate = 0.0");
        of("refinement.warmup_ratio = 2", "refinement", "warmup_ratio = 2.0");
        of(
            "refinement.warmup_steps and refinement.warmup_ratio",
            "refinement",
            "warmup_steps = 1\nwarmup_ratio = 0.1",
        );
        of("refinement.full", "refinement", "full = true\nlora.r = 4");
        of("refinement.lora.r = 0", "refinement", "lora.r = 0");
        of("refinement.format", "refinement", "data = \"d\"\nformat = \"parquet\"");
        of("refinement.preferred = \"nicer\"", "refinement", "preferred = \"nicer\"");
        of("refinement.data is missing", "refinement", "format = \"hh-rlhf\"");
        of("tuning.beta = 0", "tuning", "beta = 0.0");
        of("tuning.batch_size = 0", "tuning", "batch_size = 0");
        of("tuning.steps and tuning.epochs", "tuning", "steps = 1\nepochs = 2.0");
        of("tuning.ppo.samples = 1", "tuning", "method = \"grpo\"");
        of("tuning.ppo applies to ppo", "tuning", "ppo.samples = 2");
        of("tuning.beta and tuning.loss apply to dpo", "tuning", "method = \"ppo\"\nbeta = 0.2");
        of("learning_rte", "tuning", "learning_rte = 0.1");
        of("epochs_max", "tuning", "method = \"ppo\"\nppo.epochs_max = 1");
    }

    #[test]
    fn gold_and_guards_are_checked() {
        let gold = |text: &str| refused_loop("kind = \"sentiment\"", text);
        assert!(gold("kind = \"opinion\"").contains("opinion"));
        assert!(gold("kind = \"sentiment\"\npath = \"x\"").contains("path"));
        assert!(gold("kind = \"answers\"").contains("path"));
        assert!(gold("kind = \"model\"\npath = \"m\"\ntemplate = \"{prompt}\"").contains("gold.template"));
        let guards = |text: &str| refused_loop("[tuning]", &format!("[guards]\n{text}\n[tuning]"));
        assert!(guards("kl_max = 0.0").contains("guards.kl_max = 0"));
        assert!(guards("gold_patience = 0").contains("guards.gold_patience = 0"));
        assert!(guards("agreement_drop = 2.0").contains("guards.agreement_drop = 2"));
        let model = learning(&LOOP.replace(
            "kind = \"sentiment\"",
            "kind = \"model\"\npath = \"cache:gold.gguf\"\nadapter = \"a\"\nscore = \"cost\"",
        ));
        let Some(GoldConfig::Model(gold)) = model.gold else { panic!("a model") };
        assert!(gold.path.ends_with("gold.gguf") && !gold.path.starts_with("folder"));
        assert_eq!(gold.adapter.as_deref(), Some(Path::new("folder/a")));
    }
}
