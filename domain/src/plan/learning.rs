//! What an experiment does with the conflicts that it found. All of it determines the result, so all of it is in the log.

use serde::{Deserialize, Serialize};

use super::source::{PreferenceSource, PromptSource};
use crate::feedback::Opponent;
use crate::training::{Hyperparameters, PolicyObjective};

/// Feedback, refinement of the reward model, tuning of the policy, and their evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearningPlan {
    /// Who is asked, and what.
    pub feedback: FeedbackPlan,
    /// How the reward model is refined.
    pub refinement: RefinementPlan,
    /// How the policy is tuned.
    pub tuning: TuningPlan,
    /// On what policies are evaluated.
    pub evaluation: EvaluationPlan,
    /// When to warn, and when to end before the last round.
    pub guards: GuardPlan,
}

/// Who is asked, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedbackPlan {
    /// Who answers.
    pub source: FeedbackSource,
    /// What a selected answer is compared with.
    pub opponent: Opponent,
    /// Judgements that each comparison needs, ≥ 1.
    pub overlap: u32,
    /// Judgements of a round after which nobody is asked any more; none: until every comparison has its overlap.
    pub budget: Option<u64>,
}

/// Who judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedbackSource {
    /// The gold reward: the answer that it rates higher is better.
    Oracle,
    /// People, whenever they come to it.
    People,
}

/// Where the reward that stands for the truth comes from. It is used by the oracle and by evaluations, never by a selection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldPlan {
    /// A name for people.
    pub name: String,
    /// Fingerprint of the model, or of the file or rule that takes its place.
    pub fingerprint: String,
}

/// How the reward model is refined: on the original preferences and on all feedback so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinementPlan {
    /// The preferences that the reward model was first trained on; none: it learns from the feedback alone.
    pub original: Option<PreferenceSource>,
    /// How it is trained.
    pub hyperparameters: Hyperparameters,
}

/// How the policy is tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningPlan {
    /// What it aims at.
    pub objective: PolicyObjective,
    /// How it is trained.
    pub hyperparameters: Hyperparameters,
}

/// On what policies are evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationPlan {
    /// Prompts that no policy is tuned on.
    pub prompts: PromptSource,
    /// Completions of each.
    pub samples: u32,
    /// What stands for the truth; none: only what proxy and policy say is reported.
    pub gold: Option<GoldPlan>,
}

/// When to warn, and when to end before the last round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardPlan {
    /// End once the policy is farther than this from where it began, in nats a completion.
    pub kl_max: Option<f64>,
    /// End after so many rounds in which the gold reward did not exceed the best so far.
    pub gold_patience: Option<u32>,
    /// End as soon as reward hacking is suspected, instead of only saying so.
    pub stop_on_reward_hacking: bool,
    /// How far the agreement of the reward model with the gold reward may fall, as a share of pairs, without being a sign.
    pub agreement_drop: f64,
}

impl Default for GuardPlan {
    fn default() -> Self {
        Self { kl_max: None, gold_patience: None, stop_on_reward_hacking: false, agreement_drop: 0.05 }
    }
}
