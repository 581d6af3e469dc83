//! The part of a plan after the conflict step. All of it determines the result, so all of it is in the log.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::source::{PreferenceSource, PromptSource};
use crate::feedback::Opponent;
use crate::id::PromptId;
use crate::training::{Hyperparameters, PolicyObjective};

/// Feedback, refinement of the reward model, tuning of the policy, and evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearningPlan {
    /// The feedback.
    pub feedback: FeedbackPlan,
    /// The refinement of the reward model.
    pub refinement: RefinementPlan,
    /// The tuning of the policy.
    pub tuning: TuningPlan,
    /// The evaluation of policies.
    pub evaluation: EvaluationPlan,
    /// Limits for warnings and for an early end.
    pub guards: GuardPlan,
}

/// The feedback: the source of judgements, and the requested comparisons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedbackPlan {
    /// The source of the judgements.
    pub source: FeedbackSource,
    /// The opponent of a selected completion.
    pub opponent: Opponent,
    /// Judgements that each comparison needs, ≥ 1.
    pub overlap: u32,
    /// Number of judgements at which the feedback of a round ends; `None`: when every comparison has its
    /// overlap.
    pub budget: Option<u64>,
    /// The audit share in [0, 1): the share of the comparisons that is drawn uniformly from all pairs of
    /// completions. Version 0.1 had none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub audit: f64,
    /// Whether anybody is asked about degenerate completions. Version 0.1 always asked.
    #[serde(default, skip_serializing_if = "DegenerateCompletions::is_ask")]
    pub degenerate: DegenerateCompletions,
    /// Further pairs in one round, from a few prompts. Only a fork has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub focus: Option<FocusPlan>,
}

/// Pairs that a round asks beside those of the rule and of the audit, all from one group of prompts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FocusPlan {
    /// The round that asks them.
    pub round: u32,
    /// The group, for people: the words of a topic, or a category.
    pub topic: String,
    /// The prompts of the group.
    pub prompts: BTreeSet<PromptId>,
    /// Number of further pairs, at most.
    pub pairs: u64,
}

/// What happens to degenerate completions: loops, empty texts, and texts that the token limit cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DegenerateCompletions {
    /// They are compared like others.
    #[default]
    Ask,
    /// No comparison shows them. The conflict step records the flags, by the rules of version 0.2; other
    /// rules would be another value. Where more than half of a round's completions are cut off, being cut off
    /// does not count.
    Skip,
}

impl DegenerateCompletions {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_ask(&self) -> bool {
        *self == Self::Ask
    }
}

impl FeedbackPlan {
    /// The audit share of an experiment that names none.
    pub const AUDIT: f64 = 0.15;
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

/// Source of judgements.
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

/// Refinement of the reward model, on its original preferences and on all feedback so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinementPlan {
    /// The preferences of its original training; `None`: it learns from the feedback alone.
    pub original: Option<PreferenceSource>,
    /// Settings of the training.
    pub hyperparameters: Hyperparameters,
}

/// Tuning of the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningPlan {
    /// The method and its settings.
    pub objective: PolicyObjective,
    /// Settings of the training.
    pub hyperparameters: Hyperparameters,
}

/// Evaluation of policies on held-out prompts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationPlan {
    /// Held-out prompts.
    pub prompts: PromptSource,
    /// Completions per prompt.
    pub samples: u32,
    /// The gold reward; `None`: evaluations report only proxy and policy.
    pub gold: Option<GoldPlan>,
}

/// Limits for warnings and for an early end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardPlan {
    /// The experiment ends when the KL divergence from the initial policy exceeds this, in nats per
    /// completion.
    pub kl_max: Option<f64>,
    /// The experiment ends after this number of rounds without a new best gold reward.
    pub gold_patience: Option<u32>,
    /// Whether a suspicion of reward hacking ends the experiment, instead of only a warning.
    pub stop_on_reward_hacking: bool,
    /// Largest fall in agreement between reward model and gold reward that is no sign of reward hacking, as a
    /// share of pairs.
    pub agreement_drop: f64,
}

impl Default for GuardPlan {
    fn default() -> Self {
        Self { kl_max: None, gold_patience: None, stop_on_reward_hacking: false, agreement_drop: 0.05 }
    }
}
