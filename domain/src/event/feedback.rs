//! Events of the feedback step: requested comparisons, and the judgements of people or of an oracle.

use serde::{Deserialize, Serialize};

use crate::feedback::{Agreement, Verdict};
use crate::id::PromptId;

/// A comparison of two completions was requested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedbackRequested {
    /// The round.
    pub round: u32,
    /// The number of the comparison among those of the round, from 0.
    pub comparison: u32,
    /// The prompt.
    pub prompt_id: PromptId,
    /// The prompt's place in the prompt file, from 0.
    pub prompt_index: u32,
    /// The completion that is shown first. The order is random.
    pub first: u32,
    /// The completion that is shown second.
    pub second: u32,
    /// The probability, in (0, 1], with which the audit drew this pair, given the scores of the round;
    /// `None`: the audit did not draw it. Annotators never see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propensity: Option<f64>,
    /// Whether the pair belongs to the focus of a fork, rather than to the rule or the audit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_focus: bool,
}

/// An annotator judged a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedbackReceived {
    /// The round.
    pub round: u32,
    /// The comparison.
    pub comparison: u32,
    /// The annotator, who judges a comparison once.
    pub annotator: String,
    /// The better completion.
    pub verdict: Verdict,
    /// Whether each completion, `[first, second]`, is unsafe; `None` if safety was not judged.
    pub is_unsafe: Option<[bool; 2]>,
    /// The annotator's comment.
    pub comment: Option<String>,
}

/// The feedback of a round is complete, or its budget is spent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedbackSettled {
    /// The round.
    pub round: u32,
    /// Number of requested comparisons.
    pub comparisons: u32,
    /// Number of judgements.
    pub judgements: u64,
    /// Comparisons with a majority for one completion. The reward model learns from these.
    pub preferences: u32,
    /// Comparisons judged without such a majority.
    pub ties: u32,
    /// Preferences that the reward model contradicts: it rated the other completion at least as high.
    pub contradicted: u32,
    /// Agreement of the annotators.
    pub agreement: Agreement,
}
