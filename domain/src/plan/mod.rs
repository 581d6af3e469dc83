//! The plan: every setting that determines an experiment. `experiment.started` records it whole.

mod learning;
mod source;

use serde::{Deserialize, Serialize};

pub use learning::{
    DegenerateCompletions, EvaluationPlan, FeedbackPlan, FeedbackSource, FocusPlan, GoldPlan, GuardPlan,
    LearningPlan, RefinementPlan, TuningPlan,
};
pub use source::{PreferenceSource, PromptSource};

use crate::conflict::{LogprobKind, Rule, SelectionSettings, audit_labels};
use crate::generation::SamplingParams;
use crate::id::ExperimentId;
use crate::reward::{RewardKind, RewardOutput};
use crate::weight_form::WeightForm;

/// Every setting that determines an experiment. Models and prompts are named by hashes of their content: a
/// changed file changes the plan, and a moved file does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The name of the experiment.
    pub experiment: ExperimentId,
    /// The seed of every random choice.
    pub seed: u64,
    /// Number of rounds, ≥ 1.
    pub rounds: u32,
    /// The prompts.
    pub prompts: PromptSource,
    /// The policy π.
    pub policy: PolicyPlan,
    /// The proxy reward r.
    pub reward: RewardPlan,
    /// Settings of the sampling.
    pub sampling: SamplingParams,
    /// Settings of the measurement of conflict and of the selection.
    pub conflict: ConflictPlan,
    /// Feedback and trainings; `None`: conflicts are only measured and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<Box<LearningPlan>>,
    /// The version of the rules by which model files are read. Version 0.1 recorded none and read by rules 1.
    #[serde(default = "first_reading_rules", skip_serializing_if = "is_first_reading_rules")]
    pub reading_rules: u32,
    /// The name in the seeds of samples; `None`: the name of the experiment, as in version 0.1. Experiments
    /// with the same key and seed draw the same random numbers, so their figures can be paired by prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_key: Option<String>,
}

impl Plan {
    /// The sampling key of experiments since version 0.2: one for all, so the seed alone tells samples apart.
    pub const SAMPLING_KEY: &str = "dissent";

    /// The share of the comparisons that the audit draws, in [0, 1); 0 if nothing is asked.
    #[must_use]
    pub fn audit_share(&self) -> f64 {
        let asks = self.conflict.selection.rule != Rule::None;
        let learning = self.learning.as_ref().filter(|_| asks);
        learning.map_or(0.0, |learning| learning.feedback.audit)
    }

    /// The part of the budget that the audit draws; `None` without a budget.
    #[must_use]
    pub fn audit_budget(&self) -> Option<u64> {
        self.conflict.selection.budget.map(|budget| audit_labels(budget, self.audit_share()))
    }

    /// The selection by the rule: its budget is what the audit leaves.
    #[must_use]
    pub fn rule_selection(&self) -> SelectionSettings {
        let selection = self.conflict.selection.clone();
        let audited = self.audit_budget().unwrap_or(0);
        SelectionSettings { budget: selection.budget.map(|budget| budget - audited), ..selection }
    }

    /// The name in the seeds of samples.
    #[must_use]
    pub fn sampling_key(&self) -> &str {
        self.sampling_key.as_deref().unwrap_or_else(|| self.experiment.as_str())
    }

    /// Whether evaluations record their completions and the figures of each prompt. Those of an experiment
    /// that version 0.1 began do not, so that an upgrade does not change its result.
    #[must_use]
    pub fn records_figures_by_prompt(&self) -> bool {
        self.sampling_key.is_some()
    }
}

/// The reading rules of version 0.1.
const FIRST_READING_RULES: u32 = 1;

const fn first_reading_rules() -> u32 {
    FIRST_READING_RULES
}

/// Whether the rules are those of version 0.1, which are not written.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) const fn is_first_reading_rules(rules: &u32) -> bool {
    *rules == FIRST_READING_RULES
}

/// The policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPlan {
    /// A name for people.
    pub name: String,
    /// Fingerprint of checkpoint and adapter.
    pub fingerprint: String,
    /// The prompt template: `chat`, `raw`, or a text with `{prompt}`.
    pub template: String,
    /// The weights that sample. Log-probabilities are those of weights f32 in any case.
    #[serde(default, skip_serializing_if = "WeightForm::is_f32")]
    pub weights: WeightForm,
}

/// The reward model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardPlan {
    /// A name for people.
    pub name: String,
    /// Fingerprint of checkpoint, retained layers and adapter.
    pub fingerprint: String,
    /// The template of prompt and completion: `chat`, `raw`, or a text with `{prompt}` and `{completion}`.
    pub template: String,
    /// Whether its score is a reward or a cost.
    pub kind: RewardKind,
    /// The outputs that make up its score; `None`: it has only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<RewardOutput>,
}

/// Measurement of conflict, and selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConflictPlan {
    /// The log-probability that is compared with the reward.
    pub logprob: LogprobKind,
    /// The rule that selects pairs for feedback.
    pub selection: SelectionSettings,
}
