//! The sections about learning from the conflicts: feedback, refinement, tuning, evaluation. `[feedback]`
//! turns it on.

use std::path::PathBuf;
use std::str::FromStr as _;

use dissent_domain::feedback::Opponent;
use dissent_domain::plan::{FeedbackPlan, FeedbackSource, GuardPlan};
use dissent_domain::reward::RewardKind;
use dissent_domain::training::{
    DpoLoss, Hyperparameters, LoraSettings, PolicyMethod, PolicyObjective, PpoSettings,
};
use serde::Deserialize;

use super::measurement::chat;
use super::training::{TrainingDefaults, training_section};
use crate::dataset::{Format, Preferred, ReadOptions};

/// `[feedback]`: who is asked, and what.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedbackConfig {
    /// `oracle`: the gold reward answers; `people`: they do, through `dissent feedback`.
    pub source: FeedbackSource,
    /// What a selected answer is compared with: `conflict`, `margin` or `random`.
    #[serde(default)]
    pub opponent: Opponent,
    /// Judgements that each comparison needs.
    #[serde(default = "one")]
    pub overlap: u32,
    /// Judgements of a round after which nobody is asked any more.
    pub budget: Option<u64>,
}

fn one() -> u32 {
    1
}

impl FeedbackConfig {
    /// As it is recorded.
    #[must_use]
    pub fn plan(&self) -> FeedbackPlan {
        FeedbackPlan {
            source: self.source,
            opponent: self.opponent,
            overlap: self.overlap,
            budget: self.budget,
        }
    }
}

/// `[gold]`: what stands for the truth.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GoldConfig {
    /// A reward model.
    Model(GoldModelConfig),
    /// How positive an answer sounds.
    Sentiment(GoldSentimentConfig),
    /// Reference answers.
    Answers(GoldAnswersConfig),
}

/// `[gold]` with `kind = "model"`: as `[reward]`, but for the kind of score.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldModelConfig {
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
    pub score: RewardKind,
}

/// `[gold]` with `kind = "sentiment"`: nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldSentimentConfig {}

/// `[gold]` with `kind = "answers"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldAnswersConfig {
    /// JSON lines: `{"prompt_id", "answer"}`.
    pub path: PathBuf,
}

training_section! {
    /// `[refinement]`: how the reward model learns from the feedback.
    RefinementConfig {
        /// The preferences that it was first trained on.
        data: Option<PathBuf>,
        /// Their format; recognised from the first line where it is left out.
        format: Option<String>,
        /// Of PKU-SafeRLHF: `better` or `safer`.
        preferred: Option<String>,
    }
}

training_section! {
    /// `[tuning]`: how the policy is tuned against the refined reward.
    TuningConfig {
        /// `dpo`, `rso`, `ppo`, `grpo` or `rloo`.
        method: PolicyMethod,
        /// DPO and RSO: the strength of the tie to the first policy.
        beta: Option<f64>,
        /// DPO and RSO: `sigmoid`, `ipo` or `hinge`.
        loss: DpoLoss,
        /// PPO, GRPO and RLOO: `[tuning.ppo]`.
        ppo: PpoSettings,
    }
}

/// `[evaluation]`: on what policies are measured.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Prompts that no policy is tuned on, as those of `[prompts]`.
    pub prompts: PathBuf,
    /// Completions of each; as many as `[generation]` samples where it is left out.
    pub samples: Option<u32>,
}

impl RefinementConfig {
    /// How the preferences are read.
    ///
    /// # Errors
    /// If a key has a value that it cannot have.
    pub fn read_options(&self) -> Result<ReadOptions, String> {
        let format = self.format.as_deref().map(Format::from_str).transpose();
        let preferred = match self.preferred.as_deref() {
            None | Some("better") => Preferred::Better,
            Some("safer") => Preferred::Safer,
            Some(other) => {
                return Err(format!("refinement.preferred = {other:?}: use \"better\" or \"safer\""));
            }
        };
        let format = format.map_err(|reason| format!("refinement.format: {reason}"))?;
        Ok(ReadOptions { format, preferred, ..ReadOptions::default() })
    }

    /// The whole of the settings; `adapter` is what the reward model's adapter was trained with, if it has
    /// one.
    #[must_use]
    pub fn hyperparameters(&self, experiment_seed: u64, adapter: Option<&LoraSettings>) -> Hyperparameters {
        self.keys().hyperparameters(&Self::defaults(experiment_seed, adapter))
    }

    fn defaults(seed: u64, adapter: Option<&LoraSettings>) -> TrainingDefaults {
        let usual = LoraSettings { r: 8, alpha: 32.0, targets: Vec::new() };
        let lora = adapter.cloned().unwrap_or(usual);
        TrainingDefaults { learning_rate_lora: 1e-4, learning_rate_full: 1e-5, lora, seed }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let options = self.read_options()?;
        if self.data.is_none() && (options.format.is_some() || self.preferred.is_some()) {
            return Err("refinement.data is missing: the format is that of a file".to_owned());
        }
        self.keys().validate("refinement", &Self::defaults(0, None))
    }
}

impl TuningConfig {
    /// What tuning aims at.
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

    /// The whole of the settings; `adapter` is what the policy's adapter was trained with, if it has one.
    #[must_use]
    pub fn hyperparameters(&self, experiment_seed: u64, adapter: Option<&LoraSettings>) -> Hyperparameters {
        self.keys().hyperparameters(&Self::defaults(experiment_seed, adapter))
    }

    /// The learning rates are TRL's for PPO.
    fn defaults(seed: u64, adapter: Option<&LoraSettings>) -> TrainingDefaults {
        let usual = LoraSettings { r: 16, alpha: 32.0, targets: Vec::new() };
        let lora = adapter.cloned().unwrap_or(usual);
        TrainingDefaults { learning_rate_lora: 1.41e-5, learning_rate_full: 3e-6, lora, seed }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        self.objective().validate().map_err(|error| format!("tuning.{error}"))?;
        let knobs_for_nothing = match self.method {
            PolicyMethod::Dpo | PolicyMethod::Rso => {
                (self.ppo != PpoSettings::default()).then_some("tuning.ppo is for ppo, grpo and rloo")
            }
            PolicyMethod::Ppo | PolicyMethod::Grpo | PolicyMethod::Rloo => {
                let given = self.beta.is_some() || self.loss != DpoLoss::default();
                given.then_some("tuning.beta and tuning.loss are for dpo and rso")
            }
        };
        if let Some(knobs) = knobs_for_nothing {
            return Err(format!("{knobs}: tuning.method is another; leave them out"));
        }
        self.keys().validate("tuning", &Self::defaults(0, None))
    }
}

/// What a configuration says about learning, where it says that there is any.
#[derive(Debug, Clone, Copy)]
pub struct LearningConfig<'a> {
    /// Who is asked.
    pub feedback: &'a FeedbackConfig,
    /// What stands for the truth.
    pub gold: Option<&'a GoldConfig>,
    /// How the reward model learns.
    pub refinement: &'a RefinementConfig,
    /// How the policy learns.
    pub tuning: &'a TuningConfig,
    /// On what policies are measured.
    pub evaluation: &'a EvaluationConfig,
    /// Completions of each held-out prompt.
    pub evaluation_samples: u32,
    /// When to warn, and when to end.
    pub guards: GuardPlan,
}
