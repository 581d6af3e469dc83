//! The configuration of an experiment: a TOML file, checked completely before anything starts.
//!
//! Relative paths start at the folder of the file. `cache:` is the cache folder of Dissent, `~/` the home
//! folder. Unknown keys are errors, because a misspelt key would otherwise silently become a default.

mod artifacts;
mod broker;
mod error;
mod learning;
mod learning_checks;
mod limits;
mod measurement;
pub(crate) mod overrides;
mod paths;
mod range;
pub(crate) mod schema;
mod server;
mod source;
mod template;
mod training;
mod worker;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::plan::GuardPlan;
use serde::Deserialize;

pub use artifacts::ArtifactsConfig;
pub use broker::{BrokerConfig, RabbitConfig};
pub use error::{ConfigError, KeyErrorKind};
pub use learning::{
    EvaluationConfig, FeedbackConfig, GoldAnswersConfig, GoldConfig, GoldModelConfig, GoldSentimentConfig,
    LearningConfig, RefinementConfig, TuningConfig,
};
use limits::BATCH_PROMPTS_MAX;
pub(crate) use limits::{ROUNDS_MAX, THREADS_MAX};
pub use measurement::{
    ConflictConfig, ExperimentConfig, GenerationConfig, PolicyConfig, PromptsConfig, RewardConfig,
    RuntimeConfig,
};
use overrides::Override;
pub use paths::resolve;
use range::check_range;
pub(crate) use server::{ArchiveConfig, Auth, ServerConfig};
pub(crate) use source::ConfigSource;
pub(crate) use template::{MissingCompletion, check_reward_template};
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

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, or has an unknown key or a value out of range.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        Self::load_with(path, &[])
    }

    /// Reads and checks a file, with values of the command line in place of its own.
    ///
    /// # Errors
    /// As [`load`](Self::load); a value of the command line is named as such.
    pub(crate) fn load_with(path: &Path, overrides: &[Override]) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::read(path, source))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let load = || {
            let mut config = overrides::parse::<Self>(&text, overrides)?;
            config.validate()?;
            config.resolve_paths(folder)?;
            Ok::<_, ConfigError>(config)
        };
        load().with_context(|| format!("failed to use {}", path.display()))
    }

    /// Reads and checks a text, whose relative paths start at `folder`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn parse(text: &str, folder: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::unresolved(text)?;
        config.resolve_paths(folder)?;
        Ok(config)
    }

    /// Parses and checks a text, and keeps its paths as written.
    ///
    /// # Errors
    /// If the text is not TOML, or has an unknown key or a value out of range.
    pub(crate) fn unresolved(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first invalid key, with its allowed values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_range("experiment.rounds", self.experiment.rounds, 1..=ROUNDS_MAX)?;
        self.generation.sampling().validate().map_err(|error| {
            let key = format!("generation.{}", error.name);
            ConfigError::key(key, KeyErrorKind::OutOfRange, format!("generation.{error}"))
        })?;
        check_range("generation.batch_prompts", self.generation.batch_prompts, 1..=BATCH_PROMPTS_MAX)?;
        check_range("runtime.threads", self.runtime.threads, 0..=THREADS_MAX)?;
        template::parse("policy.template", &self.policy.template)?;
        template::parse_reward("reward.template", &self.reward.template)?;
        check_outputs("reward", self.reward.label, self.reward.weights.as_deref())?;
        if let Some(GoldConfig::Model(gold)) = &self.gold {
            check_outputs("gold", gold.label, gold.weights.as_deref())?;
        }
        self.conflict.selection().validate().map_err(|error| {
            ConfigError::key("[conflict]", KeyErrorKind::OutOfRange, format!("conflict: {error}"))
        })?;
        self.broker.validate()?;
        self.artifacts.validate()?;
        self.validate_learning()
    }

    fn resolve_paths(&mut self, folder: &Path) -> Result<(), ConfigError> {
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

/// Checks the outputs of a reward model that make up its score.
fn check_outputs(section: &str, label: Option<u32>, weights: Option<&[f64]>) -> Result<(), ConfigError> {
    let Some(weights) = weights else { return Ok(()) };
    let key = format!("{section}.weights");
    if label.is_some() {
        let reason = format!("{section}.label and {key} exclude each other: use one of them");
        return Err(ConfigError::key(key, KeyErrorKind::Exclusive, reason));
    }
    match weights.iter().find(|weight| !weight.is_finite()) {
        Some(weight) => Err(ConfigError::out_of_range(&key, weight, "use finite numbers")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use dissent_domain::conflict::SelectionSettings;
    use dissent_domain::generation::SamplingParams;
    use dissent_domain::reward::RewardOutput;
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

    fn rejected(change: impl Fn(&str) -> String) -> ConfigError {
        Config::parse(&change(SMALLEST), Path::new("folder")).unwrap_err()
    }

    /// Returns the invalid key, and the kind of the problem.
    fn invalid_key(change: impl Fn(&str) -> String) -> (String, KeyErrorKind) {
        let error = rejected(change);
        let (key, kind) = error.invalid_key().unwrap_or_else(|| panic!("{error}"));
        (key.to_owned(), kind)
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
        let error = rejected(|text| text.replace("name =", "nmae ="));
        assert!(matches!(error, ConfigError::Toml(_)), "{error}");
        let message = error.to_string();
        assert!(message.contains("nmae") && message.contains("line 3"), "{message}");
        assert!(!message.ends_with('\n'), "{message:?}");
    }

    #[test]
    fn values_out_of_range_are_named_with_the_allowed_values() {
        for (section, key) in [
            ("[generation]\ntop_p = 1.5", "generation.top_p"),
            ("[generation]\nbatch_prompts = 0", "generation.batch_prompts"),
            ("[runtime]\nthreads = 100000", "runtime.threads"),
            ("[conflict]\nrule = \"budget\"", "[conflict]"),
        ] {
            let found = invalid_key(|text| format!("{text}\n{section}"));
            assert_eq!(found, (key.to_owned(), KeyErrorKind::OutOfRange));
        }
        let batch = rejected(|text| format!("{text}\n[generation]\nbatch_prompts = 0"));
        assert_eq!(batch.to_string(), "generation.batch_prompts = 0: use 1 to 64");
        let name = rejected(|text| text.replace("name = \"e\"", "name = \"../e\""));
        assert!(matches!(name, ConfigError::Toml(_)) && name.to_string().contains("../e"), "{name}");
    }

    #[test]
    fn a_label_and_weights_of_a_reward_model_exclude_each_other() {
        let of =
            |keys: &'static str| move |text: &str| text.replace("[reward]", &format!("[reward]\n{keys}"));
        let parse = |keys: &'static str| Config::parse(&of(keys)(SMALLEST), Path::new("folder")).unwrap();
        assert_eq!(parse("").reward.output(), None);
        assert_eq!(parse("label = 2").reward.output(), Some(RewardOutput::Label(2)));
        let weights = parse("weights = [0.5, -1.0]").reward.output();
        assert_eq!(weights, Some(RewardOutput::Weights(vec![0.5, -1.0])));
        let both = invalid_key(of("label = 1\nweights = [1.0]"));
        assert_eq!(both, ("reward.weights".to_owned(), KeyErrorKind::Exclusive));
        let infinite = invalid_key(of("weights = [inf]"));
        assert_eq!(infinite, ("reward.weights".to_owned(), KeyErrorKind::OutOfRange));
    }

    #[test]
    fn an_unusable_template_is_named_by_its_key() {
        for (section, template, key) in [
            ("[policy]", "answer", "policy.template"),
            ("[reward]", "answer", "reward.template"),
            ("[reward]", "{prompt}", "reward.template"),
        ] {
            let error =
                rejected(|text| text.replace(section, &format!("{section}\ntemplate = \"{template}\"")));
            assert_eq!(error.invalid_key(), Some((key, KeyErrorKind::Template)));
            assert!(error.source().is_some(), "{error}");
        }
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
    fn rejected_loop(from: &str, to: &str) -> ConfigError {
        assert!(LOOP.contains(from), "{from}");
        rejected(|text| format!("{text}\n{}", LOOP.replace(from, to)))
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
        assert_eq!(invalid_key(rounds), ("experiment.rounds".to_owned(), KeyErrorKind::NoEffect));
        let config = Config::parse(&rounds(&format!("{SMALLEST}\n{LOOP}")), Path::new(".")).unwrap();
        assert_eq!(config.experiment.rounds, 3);
    }

    #[test]
    fn incompatible_sections_are_named() {
        let of = |from: &str, to: &str| {
            let error = rejected_loop(from, to);
            let (key, kind) = error.invalid_key().unwrap_or_else(|| panic!("{error}"));
            (key.to_owned(), kind)
        };
        let missing = |key: &str| (key.to_owned(), KeyErrorKind::Missing);
        assert_eq!(of("[gold]\n        kind = \"sentiment\"", ""), missing("[gold]"));
        assert_eq!(of("[tuning]", ""), missing("[tuning]"));
        assert_eq!(of("[evaluation]\n        prompts = \"held-out.jsonl\"", ""), missing("[evaluation]"));
        for (section, keys) in [
            ("[gold]", "kind = \"sentiment\""),
            ("[tuning]", ""),
            ("[refinement]", "steps = 1"),
            ("[guards]", "kl_max = 1"),
        ] {
            let found = invalid_key(|text| format!("{text}\n{section}\n{keys}"));
            assert_eq!(found, (section.to_owned(), KeyErrorKind::NoEffect));
        }
        let overlap = of("source = \"oracle\"", "source = \"oracle\"\noverlap = 2");
        assert_eq!(overlap, ("feedback.overlap".to_owned(), KeyErrorKind::OutOfRange));
        let one_sample = of("[tuning]", "[generation]\nsamples = 1\n[tuning]");
        assert_eq!(one_sample, ("generation.samples".to_owned(), KeyErrorKind::OutOfRange));
        let patience = "[feedback]\nsource = \"people\"\n[tuning]\n[evaluation]\nprompts = \"h\"\n[guards]\ngold_patience = 2";
        assert_eq!(invalid_key(|text| format!("{text}\n{patience}")), missing("[gold]"));
    }

    #[test]
    fn each_invalid_key_of_a_training_is_named() {
        use KeyErrorKind::{Exclusive, Missing, NoEffect, OutOfRange};
        for (section, value, key, kind) in [
            ("refinement", "learning_rate = 0.0", "refinement.learning_rate", OutOfRange),
            ("refinement", "warmup_ratio = 2.0", "refinement.warmup_ratio", OutOfRange),
            ("refinement", "warmup_steps = 1\nwarmup_ratio = 0.1", "refinement.warmup_steps", Exclusive),
            ("refinement", "full = true\nlora.r = 4", "refinement.full", Exclusive),
            ("refinement", "lora.r = 0", "refinement.lora.r", OutOfRange),
            ("refinement", "data = \"d\"\nformat = \"parquet\"", "refinement.format", OutOfRange),
            ("refinement", "preferred = \"nicer\"", "refinement.preferred", OutOfRange),
            ("refinement", "format = \"hh-rlhf\"", "refinement.data", Missing),
            ("tuning", "beta = 0.0", "tuning.beta", OutOfRange),
            ("tuning", "batch_size = 0", "tuning.batch_size", OutOfRange),
            ("tuning", "steps = 1\nepochs = 2.0", "tuning.steps", Exclusive),
            ("tuning", "method = \"grpo\"", "tuning.ppo.samples", OutOfRange),
            ("tuning", "ppo.samples = 2", "tuning.ppo", NoEffect),
            ("tuning", "method = \"ppo\"\nbeta = 0.2", "tuning.beta", NoEffect),
        ] {
            let tuning = if section == "tuning" { "" } else { "\n[tuning]" };
            let error = rejected_loop("[tuning]", &format!("[{section}]\n{value}{tuning}"));
            assert_eq!(error.invalid_key(), Some((key, kind)), "{value}: {error}");
        }
        for value in ["learning_rte = 0.1", "method = \"ppo\"\nppo.epochs_max = 1"] {
            let error = rejected_loop("[tuning]", &format!("[tuning]\n{value}"));
            assert!(matches!(error, ConfigError::Toml(_)), "{value}: {error}");
        }
        let warmup = rejected_loop("[tuning]", "[tuning]\nwarmup_ratio = 2.0");
        assert!(warmup.to_string().starts_with("tuning.warmup_ratio = 2"), "{warmup}");
    }

    #[test]
    fn gold_and_guards_are_checked() {
        let gold = |text: &str| rejected_loop("kind = \"sentiment\"", text);
        for text in ["kind = \"opinion\"", "kind = \"sentiment\"\npath = \"x\"", "kind = \"answers\""] {
            assert!(matches!(gold(text), ConfigError::Toml(_)), "{text}");
        }
        let template = gold("kind = \"model\"\npath = \"m\"\ntemplate = \"{prompt}\"");
        assert_eq!(template.invalid_key(), Some(("gold.template", KeyErrorKind::Template)));
        for (guard, key) in [
            ("kl_max = 0.0", "guards.kl_max"),
            ("gold_patience = 0", "guards.gold_patience"),
            ("agreement_drop = 2.0", "guards.agreement_drop"),
        ] {
            let error = rejected_loop("[tuning]", &format!("[guards]\n{guard}\n[tuning]"));
            assert_eq!(error.invalid_key(), Some((key, KeyErrorKind::OutOfRange)));
        }
        let model = learning(&LOOP.replace(
            "kind = \"sentiment\"",
            "kind = \"model\"\npath = \"cache:gold.gguf\"\nadapter = \"a\"\nscore = \"cost\"",
        ));
        let Some(GoldConfig::Model(gold)) = model.gold else { panic!("a model") };
        assert!(gold.path.ends_with("gold.gguf") && !gold.path.starts_with("folder"));
        assert_eq!(gold.adapter.as_deref(), Some(Path::new("folder/a")));
    }
}
