//! The part of a plan after the conflict step. All of it determines the result, so all of it is in the log.

use serde::{Deserialize, Serialize};

use super::source::{PreferenceSource, PromptSource};
use crate::feedback::Opponent;
use crate::training::{Hyperparameters, PolicyObjective};

/// Feedback, refinement of the reward model, tuning of the policy, and evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearningPlan {
    /// Who judges, and which comparisons.
    pub feedback: FeedbackPlan,
    /// How the reward model is refined.
    pub refinement: RefinementPlan,
    /// How the policy is tuned.
    pub tuning: TuningPlan,
    /// How policies are evaluated.
    pub evaluation: EvaluationPlan,
    /// Limits at which to warn or to end early.
    pub guards: GuardPlan,
}

/// Who judges, and which comparisons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedbackPlan {
    /// Who judges.
    pub source: FeedbackSource,
    /// The opponent of a selected completion.
    pub opponent: Opponent,
    /// Judgements that each comparison needs, ≥ 1.
    pub overlap: u32,
    /// Number of judgements at which the feedback of a round ends; `None`: when every comparison has its
    /// overlap.
    pub budget: Option<u64>,
}

/// Who judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedbackSource {
    /// The gold reward: the completion with the higher gold reward is better.
    Oracle,
    /// People.
    People,
}

/// Source of the gold reward. The oracle and evaluations use it; selection never does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldPlan {
    /// A name for people.
    pub name: String,
    /// Fingerprint of the model, file or rule.
    pub fingerprint: String,
}

/// How the reward model is refined: on the original preferences and on all feedback so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinementPlan {
    /// The preferences of its first training; `None`: it learns from the feedback alone.
    pub original: Option<PreferenceSource>,
    /// How it is trained.
    pub hyperparameters: Hyperparameters,
}

/// How the policy is tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningPlan {
    /// The objective.
    pub objective: PolicyObjective,
    /// How it is trained.
    pub hyperparameters: Hyperparameters,
}

/// How policies are evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationPlan {
    /// Held-out prompts.
    pub prompts: PromptSource,
    /// Completions per prompt.
    pub samples: u32,
    /// The gold reward; `None`: evaluations report only proxy and policy.
    pub gold: Option<GoldPlan>,
}

/// Limits at which to warn or to end early.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardPlan {
    /// End when the KL divergence from the initial policy exceeds this, in nats per completion.
    pub kl_max: Option<f64>,
    /// End after this number of rounds without a new best gold reward.
    pub gold_patience: Option<u32>,
    /// End when reward hacking is suspected, instead of only warning.
    pub stop_on_reward_hacking: bool,
    /// Largest fall in agreement between reward model and gold reward (a share of pairs) that is no sign.
    pub agreement_drop: f64,
}

impl Default for GuardPlan {
    fn default() -> Self {
        Self { kl_max: None, gold_patience: None, stop_on_reward_hacking: false, agreement_drop: 0.05 }
    }
}
