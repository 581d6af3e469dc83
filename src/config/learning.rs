//! The sections about learning: feedback, gold, refinement, tuning, evaluation. `[feedback]` turns learning
//! on.

use std::path::PathBuf;
use std::str::FromStr as _;

use dissent_domain::feedback::Opponent;
use dissent_domain::plan::{DegenerateCompletions, FeedbackPlan, FeedbackSource, GuardPlan};
use dissent_domain::reward::{RewardKind, RewardOutput};
use dissent_domain::training::{
    DpoLoss, Hyperparameters, LoraSettings, PolicyMethod, PolicyObjective, PpoSettings,
};
use serde::Deserialize;

use super::measurement::chat;
use super::training::{TrainingDefaults, setting_error, training_section};
use super::{ConfigError, KeyErrorKind};
use crate::dataset::{Format, Preferred, ReadOptions};

/// `[feedback]`: the source of judgements and the choice of comparisons.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedbackConfig {
    /// `oracle`: the gold reward judges. `people`: annotators judge, through `dissent feedback`.
    pub source: FeedbackSource,
    /// The choice of the completion that a selected one is compared with: `conflict`, `margin`, `matched` or
    /// `random`. Omitted: `conflict`, or what the experiment began with.
    pub opponent: Option<Opponent>,
    /// Judgements per comparison.
    #[serde(default = "one")]
    pub overlap: u32,
    /// Maximum number of judgements in a round; no limit if omitted.
    pub budget: Option<u64>,
    /// The share of the comparisons that is drawn uniformly from all pairs, in [0, 1): 0.15 if omitted, or
    /// what the experiment began with. They show whether the rule finds more errors than chance.
    pub audit: Option<f64>,
    /// Degenerate completions (loops, empty, cut off by the token limit): `skip` never asks about them, `ask`
    /// does. Omitted: `skip`, or what the experiment began with.
    pub degenerate: Option<DegenerateCompletions>,
}

fn one() -> u32 {
    1
}

impl FeedbackConfig {
    /// The opponent of an experiment that names none.
    pub const OPPONENT: Opponent = Opponent::Conflict;

    /// Returns the settings as the plan records them. `opponent`, `audit` and `degenerate` are those that
    /// this section does not name.
    #[must_use]
    pub fn plan(&self, opponent: Opponent, audit: f64, degenerate: DegenerateCompletions) -> FeedbackPlan {
        FeedbackPlan {
            source: self.source,
            opponent: self.opponent.unwrap_or(opponent),
            overlap: self.overlap,
            budget: self.budget,
            audit: self.audit.unwrap_or(audit),
            degenerate: self.degenerate.unwrap_or(degenerate),
            focus: None,
        }
    }
}

/// `[gold]`: the gold reward.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GoldConfig {
    /// A reward model.
    Model(GoldModelConfig),
    /// The sentiment of a completion.
    Sentiment(GoldSentimentConfig),
    /// The similarity of a completion to reference answers.
    Answers(GoldAnswersConfig),
}

/// `[gold]` with `kind = "model"`. The keys are those of `[reward]`, with `score` in place of `kind`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldModelConfig {
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
    pub score: RewardKind,
    /// The output that is the score, counted from 0, of a model with several.
    pub label: Option<u32>,
    /// The weight of each output in the score, of a model with several.
    pub weights: Option<Vec<f64>>,
}

impl GoldModelConfig {
    /// Returns the outputs of the model that make up its score; `None`: it has only one.
    #[must_use]
    pub fn output(&self) -> Option<RewardOutput> {
        let weights = self.weights.clone().map(RewardOutput::Weights);
        self.label.map(RewardOutput::Label).or(weights)
    }
}

/// `[gold]` with `kind = "sentiment"`. The section has no further keys.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldSentimentConfig {}

/// `[gold]` with `kind = "answers"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldAnswersConfig {
    /// JSON Lines: `{"prompt_id", "answer"}`.
    pub path: PathBuf,
}

training_section! {
    /// `[refinement]`: the training of the reward model on feedback.
    RefinementConfig {
        /// The file of preferences that the reward model was first trained on.
        data: Option<PathBuf>,
        /// The format of that file; recognised from its first line if omitted.
        format: Option<String>,
        /// The preferred response of PKU-SafeRLHF rows: `better` or `safer`.
        preferred: Option<String>,
    }
}

training_section! {
    /// `[tuning]`: the training of the policy against the refined reward model.
    TuningConfig {
        /// `dpo`, `rso`, `ppo`, `grpo` or `rloo`.
        method: PolicyMethod,
        /// DPO and RSO: strength of the penalty on the distance to the reference policy.
        beta: Option<f64>,
        /// DPO and RSO: `sigmoid`, `ipo` or `hinge`.
        loss: DpoLoss,
        /// PPO, GRPO and RLOO: `[tuning.ppo]`.
        ppo: PpoSettings,
    }
}

/// `[evaluation]`: the measurement of policies.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// The file of held-out prompts, in the format of `[prompts]`. No policy is tuned on them.
    pub prompts: PathBuf,
    /// Completions per prompt; `generation.samples` if omitted.
    pub samples: Option<u32>,
}

impl RefinementConfig {
    /// Returns the options for reading the preferences.
    ///
    /// # Errors
    /// If `format` or `preferred` has an unknown value.
    pub fn read_options(&self) -> Result<ReadOptions, ConfigError> {
        let format = match self.format.as_deref() {
            None => None,
            Some(name) => Some(Format::from_str(name).map_err(|way_out| {
                ConfigError::out_of_range("refinement.format", format_args!("{name:?}"), way_out)
            })?),
        };
        let preferred = match self.preferred.as_deref() {
            None | Some("better") => Preferred::Better,
            Some("safer") => Preferred::Safer,
            Some(other) => {
                let way_out = "use \"better\" or \"safer\"";
                return Err(ConfigError::out_of_range(
                    "refinement.preferred",
                    format_args!("{other:?}"),
                    way_out,
                ));
            }
        };
        Ok(ReadOptions { format, preferred, ..ReadOptions::default() })
    }

    /// Returns the complete settings. `adapter` has those of the reward model's adapter, if one exists.
    #[must_use]
    pub fn hyperparameters(&self, experiment_seed: u64, adapter: Option<&LoraSettings>) -> Hyperparameters {
        self.keys().hyperparameters(&Self::defaults(experiment_seed, adapter))
    }

    fn defaults(seed: u64, adapter: Option<&LoraSettings>) -> TrainingDefaults {
        let usual = LoraSettings { r: 8, alpha: 32.0, targets: Vec::new() };
        let lora = adapter.cloned().unwrap_or(usual);
        TrainingDefaults { learning_rate_lora: 1e-4, learning_rate_full: 1e-5, lora, seed }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let options = self.read_options()?;
        if self.data.is_none() && (options.format.is_some() || self.preferred.is_some()) {
            let reason = "refinement.data is missing: add it, or leave out format and preferred";
            return Err(ConfigError::key("refinement.data", KeyErrorKind::Missing, reason));
        }
        self.keys().validate("refinement", &Self::defaults(0, None))
    }
}

impl TuningConfig {
    /// Returns the objective of the tuning.
    #[must_use]
    pub fn objective(&self) -> PolicyObjective {
        let usual = PolicyObjective::default();
        PolicyObjective {
            method: self.method,
            beta: self.beta.unwrap_or(usual.beta),
            loss: self.loss,
            ppo: self.ppo.clone(),
        }
    }

    /// Returns the complete settings. `adapter` has those of the policy's adapter, if one exists.
    #[must_use]
    pub fn hyperparameters(&self, experiment_seed: u64, adapter: Option<&LoraSettings>) -> Hyperparameters {
        self.keys().hyperparameters(&Self::defaults(experiment_seed, adapter))
    }

    /// Returns the defaults, with TRL's learning rates for PPO.
    fn defaults(seed: u64, adapter: Option<&LoraSettings>) -> TrainingDefaults {
        let usual = LoraSettings { r: 16, alpha: 32.0, targets: Vec::new() };
        let lora = adapter.cloned().unwrap_or(usual);
        TrainingDefaults { learning_rate_lora: 1.41e-5, learning_rate_full: 3e-6, lora, seed }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.objective().validate().map_err(|error| setting_error("tuning", &error))?;
        let unused = match self.method {
            PolicyMethod::Dpo | PolicyMethod::Rso => (self.ppo != PpoSettings::default())
                .then_some(("tuning.ppo", "tuning.ppo applies to ppo, grpo and rloo only")),
            PolicyMethod::Ppo | PolicyMethod::Grpo | PolicyMethod::Rloo => {
                let given = self.beta.is_some() || self.loss != DpoLoss::default();
                given.then_some(("tuning.beta", "tuning.beta and tuning.loss apply to dpo and rso only"))
            }
        };
        if let Some((key, problem)) = unused {
            let reason = format!("{problem}: leave out the unused keys, or change tuning.method");
            return Err(ConfigError::key(key, KeyErrorKind::NoEffect, reason));
        }
        self.keys().validate("tuning", &Self::defaults(0, None))
    }
}

/// The learning part of a configuration.
#[derive(Debug, Clone, Copy)]
pub struct LearningConfig<'a> {
    /// The source of judgements.
    pub feedback: &'a FeedbackConfig,
    /// The gold reward.
    pub gold: Option<&'a GoldConfig>,
    /// The training of the reward model.
    pub refinement: &'a RefinementConfig,
    /// The training of the policy.
    pub tuning: &'a TuningConfig,
    /// The measurement of policies.
    pub evaluation: &'a EvaluationConfig,
    /// Completions per held-out prompt.
    pub evaluation_samples: u32,
    /// Conditions for warnings and for an early end.
    pub guards: GuardPlan,
}
