//! Events of the evaluation step: the quality of a policy on held-out prompts.

use serde::{Deserialize, Serialize};

use crate::id::PromptId;

/// An evaluation was requested: number 0 of the initial policy, number k of the policy after k rounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationRequested {
    /// Its number.
    pub evaluation: u32,
}

/// A policy was evaluated on the held-out prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyEvaluated {
    /// The evaluation's number.
    pub evaluation: u32,
    /// Fingerprint of the policy.
    pub policy: String,
    /// Fingerprint of the current reward model.
    pub reward_model: String,
    /// Held-out prompts.
    pub prompts: u32,
    /// Completions sampled.
    pub completions: u32,
    /// Mean gold reward of a completion, and the standard error of that mean over prompts; `None` without a
    /// gold reward.
    pub gold_reward: Option<[f64; 2]>,
    /// Mean reward by the initial proxy, and its standard error.
    pub proxy_reward: [f64; 2],
    /// Mean reward by the current reward model, and its standard error.
    pub refined_reward: [f64; 2],
    /// Share of completion pairs that the initial proxy orders as the gold reward does, without gold ties.
    pub proxy_agreement: Option<f64>,
    /// The same share for the current reward model.
    pub refined_agreement: Option<f64>,
    /// Mean over prompts of mean|PACS| between policy and current reward model; `None` if no prompt has one.
    pub mean_abs_pacs: Option<f64>,
    /// Mean over prompts of Kendall's tau between the same; `None` if no prompt has one.
    pub kendall_tau: Option<f64>,
    /// KL divergence from the initial policy, in nats per completion: the mean of log π − log π_ref (k1).
    pub kl: f64,
    /// Mean length of a completion, in tokens.
    pub response_tokens: f64,
    /// Share of the completions that ended with a stop token.
    pub stopped: f64,
    /// BLAKE3 of the artifact with the completions: one prompt a line. `None` in events of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<String>,
    /// The figures of each prompt; `None` in events of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_prompt: Option<Box<FiguresByPrompt>>,
}

/// The figures of an evaluation by prompt. A list has one item for each of `prompts`, in their order, or is
/// empty if the figure is unknown. Figures are means over the prompt's completions, if not said otherwise.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FiguresByPrompt {
    /// The held-out prompts.
    pub prompts: Vec<PromptId>,
    /// Gold reward.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gold_reward: Vec<f64>,
    /// Reward by the initial proxy.
    pub proxy_reward: Vec<f64>,
    /// Reward by the current reward model.
    pub refined_reward: Vec<f64>,
    /// log π − log π_ref, in nats per completion.
    pub kl: Vec<f64>,
    /// Length in tokens.
    pub response_tokens: Vec<f64>,
    /// Share of the completions that ended with a stop token.
    pub stopped: Vec<f64>,
    /// Number of pairs of completions with different gold rewards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ordered: Vec<u32>,
    /// Number of these pairs that the initial proxy orders as the gold reward does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_agreed: Vec<u32>,
    /// Number of these pairs that the current reward model orders as the gold reward does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refined_agreed: Vec<u32>,
    /// The same on the completions of evaluation 0, for each of its prompts. Empty in evaluation 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_refined_agreed: Vec<u32>,
}
