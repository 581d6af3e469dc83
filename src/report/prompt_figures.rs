//! The figures of prompts and of their completions.

use dissent_domain::conflict::LogprobKind;
use dissent_domain::flags::Flag;
use dissent_domain::generation::FinishReason;
use dissent_domain::id::PromptId;
use dissent_domain::outcome::Outcome;
use serde::Serialize;

/// The last step that a prompt has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptState {
    /// The prompt waits for completions.
    Admitted,
    /// The prompt waits for rewards.
    Sampled,
    /// The prompt waits for the measurement of its conflict.
    Scored,
    /// The conflict is measured.
    Measured,
    /// The prompt was set aside.
    SetAside,
}

/// The figures of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptFigures {
    /// The prompt.
    pub prompt_id: PromptId,
    /// The index of the prompt in the prompt file, from 0.
    pub index: u32,
    /// The category of the prompt.
    pub category: Option<String>,
    /// The last step that it has passed.
    pub state: PromptState,
    /// Whether it is measured, but its rewards or log-probabilities are all equal.
    pub degenerate: bool,
    /// mean|PACS|; `None` if not measured or degenerate.
    pub mean_abs_pacs: Option<f64>,
    /// Kendall's tau-b; `None` if not measured or degenerate.
    pub kendall_tau: Option<f64>,
    /// (1 − tau-b)/2; `None` if not measured or degenerate.
    pub kendall_tau_distance: Option<f64>,
    /// Pairs of completions that policy and proxy order alike.
    pub concordant: u64,
    /// Pairs of completions that policy and proxy order oppositely.
    pub discordant: u64,
    /// Pairs of completions that policy or proxy does not order.
    pub tied: u64,
    /// Its completions, by sample index.
    #[serde(rename = "answers")]
    pub completions: Vec<CompletionFigures>,
}

/// The figures of one completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionFigures {
    /// log π(completion | prompt) in nats, the sum over the completion's tokens.
    pub logprob: f64,
    /// The mean log-probability of a token, in nats.
    pub logprob_mean: f64,
    /// The completion's tokens.
    pub tokens: u32,
    /// The reason why sampling ended.
    pub finish_reason: FinishReason,
    /// The reward; `None` before it is scored.
    pub reward: Option<f64>,
    /// The z-score of the log-probability within the prompt; `None` if not measured or degenerate.
    pub z_logprob: Option<f64>,
    /// The z-score of the reward within the prompt; `None` if not measured or degenerate.
    pub z_reward: Option<f64>,
    /// `z_reward − z_logprob`; `None` if not measured or degenerate.
    pub pacs: Option<f64>,
    /// Whether it is selected for feedback.
    pub selected: bool,
    /// What its text shows: loops, an empty text, a refusal and others. Empty unless the plan skips
    /// degenerate completions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flag>,
    /// The part of the completion in judged pairs. The JSON form counts outcomes in `learning`.
    #[serde(skip)]
    pub judged: Judged,
}

/// The part of a completion in the judged pairs of its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Judged {
    /// It is in no judged pair.
    #[default]
    No,
    /// It is in judged pairs that are shown at other completions.
    Beside,
    /// A judged pair with this outcome is shown at it. No completion shows two pairs.
    At(Outcome),
}

impl CompletionFigures {
    /// Returns the log-probability of this kind.
    #[must_use]
    pub fn logprob_as(&self, kind: LogprobKind) -> f64 {
        match kind {
            LogprobKind::Sum => self.logprob,
            LogprobKind::Mean => self.logprob_mean,
        }
    }
}
