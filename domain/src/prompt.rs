//! The prompt step: the prompts of a round.

use serde::{Deserialize, Serialize};

use crate::id::PromptId;

/// A prompt for the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// The id, unique within the experiment.
    pub prompt_id: PromptId,
    /// The text, before any template.
    pub text: String,
    /// A label for grouping in reports, such as a topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
}
