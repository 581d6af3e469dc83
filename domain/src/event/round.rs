//! Events of a round: it opens, selects pairs, is evaluated, warns, decides to stop, and closes.

use serde::{Deserialize, Serialize};

use super::stop_reason::StopReason;
use crate::id::PromptId;

/// A round opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundOpened {
    /// The round, from 0.
    pub round: u32,
    /// Number of prompts. The round is complete when each of them is measured or set aside.
    pub prompts: u32,
}

/// A pair (a prompt and one completion) was selected for feedback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairSelected {
    /// The round.
    pub round: u32,
    /// The prompt.
    pub prompt_id: PromptId,
    /// The index of the completion.
    pub completion: u32,
    /// The PACS of the completion.
    pub pacs: f64,
}

/// The figures of a round, over all its measured prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundEvaluated {
    /// The round.
    pub round: u32,
    /// Prompts measured, degenerate ones included.
    pub measured: u32,
    /// Prompts on which conflict is undefined (constant rewards or log-probabilities, or N < 2).
    pub degenerate: u32,
    /// Prompts set aside.
    pub set_aside: u32,
    /// Pairs selected.
    pub selected: u32,
    /// Mean over non-degenerate prompts of mean|PACS|; `None` if there is no such prompt.
    pub mean_abs_pacs: Option<f64>,
    /// Mean over prompts with a defined tau of Kendall's tau; `None` if there is no such prompt.
    pub kendall_tau: Option<f64>,
}

/// Evaluations show signs of reward hacking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardHackingSuspected {
    /// The round.
    pub round: u32,
    /// The signs, for a person to read.
    pub signs: Vec<String>,
}

/// The experiment was stopped before its last round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopDecided {
    /// The last round.
    pub round: u32,
    /// Why.
    pub reason: StopReason,
}

/// A round closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundClosed {
    /// The round.
    pub round: u32,
}
