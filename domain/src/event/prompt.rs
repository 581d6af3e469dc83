//! Events of one prompt in a round: admitted, sampled, scored, measured, or set aside.

use serde::{Deserialize, Serialize};

use super::step_name::StepName;
use crate::conflict::Conflict;
use crate::flags::Flag;
use crate::generation::Completion;
use crate::id::PromptId;
use crate::prompt::Prompt;

/// A prompt entered a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptAdmitted {
    /// The round.
    pub round: u32,
    /// The place of the prompt in the prompt file, from 0.
    pub index: u32,
    /// The prompt.
    pub prompt: Prompt,
}

/// The policy sampled N completions of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionsSampled {
    /// The round.
    pub round: u32,
    /// The whole prompt: a worker of the reward step needs its text and has no other source.
    pub prompt: Prompt,
    /// Fingerprint of the policy, its adapter included.
    pub policy: String,
    /// Token ids of the rendered prompt, as the policy saw them.
    pub prompt_token_ids: Vec<u32>,
    /// The completions, by sample index.
    pub completions: Vec<Completion>,
}

/// The proxy reward model scored a prompt's completions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardsScored {
    /// The round.
    pub round: u32,
    /// The prompt.
    pub prompt_id: PromptId,
    /// Fingerprint of the reward model, its adapter included.
    pub reward_model: String,
    /// One reward per completion; larger is better. The scores of a cost model are already negated.
    pub rewards: Vec<f64>,
}

/// The disagreement between policy and proxy on one prompt was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConflictMeasured {
    /// The round.
    pub round: u32,
    /// The prompt.
    pub prompt_id: PromptId,
    /// PACS, Kendall's tau and the pair counts.
    pub conflict: Conflict,
    /// The flags of each completion. Empty unless the plan skips degenerate completions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Vec<Flag>>,
}

/// A step set a prompt aside; the round continues without it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptSetAside {
    /// The round.
    pub round: u32,
    /// The prompt.
    pub prompt_id: PromptId,
    /// The step.
    pub step: StepName,
    /// The reason, for a person to read.
    pub reason: String,
}
