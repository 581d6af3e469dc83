//! The names of the steps.

use serde::{Deserialize, Serialize};

/// The name of a step of the pipeline. The same word names the module, the actor, the queue and the tracing
/// span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// Admits prompts.
    Prompt,
    /// Samples completions.
    Generation,
    /// Scores completions.
    Reward,
    /// Measures conflict.
    Conflict,
    /// Opens, closes and evaluates rounds.
    Round,
    /// Collects judgements from people or from an oracle.
    Feedback,
    /// Fine-tunes the reward model and the policy.
    Training,
    /// Measures a policy on held-out prompts.
    Evaluation,
}

impl StepName {
    /// Every step.
    pub const ALL: [Self; 8] = [
        Self::Prompt,
        Self::Generation,
        Self::Reward,
        Self::Conflict,
        Self::Round,
        Self::Feedback,
        Self::Training,
        Self::Evaluation,
    ];

    /// The name of the step.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Generation => "generation",
            Self::Reward => "reward",
            Self::Conflict => "conflict",
            Self::Round => "round",
            Self::Feedback => "feedback",
            Self::Training => "training",
            Self::Evaluation => "evaluation",
        }
    }
}
