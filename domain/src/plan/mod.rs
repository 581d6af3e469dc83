//! The plan: every setting that determines an experiment. `experiment.started` records it whole.

mod learning;
mod source;

use serde::{Deserialize, Serialize};

pub use learning::{
    EvaluationPlan, FeedbackPlan, FeedbackSource, GoldPlan, GuardPlan, LearningPlan, RefinementPlan,
    TuningPlan,
};
pub use source::{PreferenceSource, PromptSource};

use crate::conflict::{LogprobKind, SelectionSettings};
use crate::generation::SamplingParams;
use crate::id::ExperimentId;
use crate::reward::RewardKind;

/// Everything that determines an experiment. Models and prompts are named by what is in them, not by
/// where they lie, so that a moved file is no change and a changed file is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub experiment: ExperimentId,
    /// The seed of every random choice.
    pub seed: u64,
    /// Rounds to do, ≥ 1.
    pub rounds: u32,
    /// The prompts.
    pub prompts: PromptSource,
    /// The policy π.
    pub policy: PolicyPlan,
    /// The proxy reward r.
    pub reward: RewardPlan,
    /// How completions are sampled.
    pub sampling: SamplingParams,
    /// How conflict is measured, and what is selected.
    pub conflict: ConflictPlan,
    /// What is learnt from it; none: conflicts are found and reported, and that is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<Box<LearningPlan>>,
}

/// Which policy answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPlan {
    /// A name for people.
    pub name: String,
    /// Fingerprint of checkpoint and adapter.
    pub fingerprint: String,
    /// How a prompt is put to it: `chat`, `raw`, or a text naming `{prompt}`.
    pub template: String,
}

/// Which reward model scores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardPlan {
    /// A name for people.
    pub name: String,
    /// Fingerprint of checkpoint, kept layers and adapter.
    pub fingerprint: String,
    /// How prompt and completion are put to it: `chat`, `raw`, or a text naming `{prompt}` and `{completion}`.
    pub template: String,
    /// Whether its score is a reward or a cost.
    pub kind: RewardKind,
}

/// How conflict is measured and selected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConflictPlan {
    /// Which log-probability is compared with the reward.
    pub logprob: LogprobKind,
    /// Which pairs are chosen for feedback.
    pub selection: SelectionSettings,
}
