//! The conflict step: measures the disagreement of policy and proxy on the completions of a prompt, and
//! selects the pairs for feedback.
//!
//! Definitions follow "Targeting Misalignment: A Conflict-Aware Framework for Reward-Model-based LLM
//! Alignment" (arXiv 2512.09212). [PACS](pacs()) compares the z-scores of the two within a prompt, and
//! [Kendall's tau](kendall_tau()) their rankings. A [selection](select) chooses pairs by these figures. The
//! [null band](null_band()) is their distribution for independent rewards and log-probabilities.

mod audit;
mod kendall_tau;
mod noise_selection;
mod null_band;
mod pacs;
mod pairs;
mod quantiles;
mod resampling;
mod selection;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use audit::{AuditDraws, audit_beside, audit_draws, audit_labels};
pub use kendall_tau::{KendallTau, kendall_tau};
pub use noise_selection::{NoiseSelection, noise_selection};
pub use null_band::{NullBand, null_band};
pub use pacs::{MIN_SIGMA, pacs, z_scores};
pub use pairs::{
    MARGIN_STRATA, Pair, PairScore, ScoredCompletions, margin_strata, pair_scores, pairs, tells_apart,
};
pub use quantiles::{Quantiles, quantile};
pub use resampling::{KindDifference, ResampledConflict, between_kinds, resample};
pub use selection::{Rule, Selection, SelectionError, SelectionSettings, rule_scores, select};

use kendall_tau::RankScratch;
use pacs::standardise;

/// The log-probability of a completion that is compared with its reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogprobKind {
    /// log π(y|x), summed over response tokens, as in the paper. It depends mostly on the length where
    /// lengths differ.
    #[default]
    Sum,
    /// log π(y|x) per response token.
    Mean,
}

impl LogprobKind {
    /// Both kinds, in the order of help texts.
    pub const ALL: [Self; 2] = [Self::Sum, Self::Mean];

    /// The name of the kind in configuration files, in events and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
        }
    }
}

impl fmt::Display for LogprobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for LogprobKind {
    type Err = UnknownLogprobKind;

    fn from_str(name: &str) -> Result<Self, UnknownLogprobKind> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| UnknownLogprobKind(name.to_owned()))
    }
}

/// A name of no [`LogprobKind`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown log-probability `{0}`: use sum or mean")]
pub struct UnknownLogprobKind(pub String);

/// The conflict of the N completions of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// Whether rewards or log-probabilities do not vary: N < 2, or a standard deviation below [`MIN_SIGMA`].
    /// Then every PACS is 0, tau is undefined, and no rule selects from the prompt.
    pub degenerate: bool,
    /// The Proxy-Policy Alignment Conflict Score of each completion, shape `[N]`. Each is within ±2·√(N−1),
    /// and their sum is 0. Positive: the proxy rates the completion high, and the policy finds it unlikely.
    pub pacs: Vec<f64>,
    /// The mean of |PACS| over the prompt's completions, in [0, 2].
    pub mean_abs_pacs: f64,
    /// Kendall's tau-b between rewards and log-probabilities, in [−1, 1]; `None` if degenerate.
    pub kendall_tau: Option<f64>,
    /// (1 − tau-b)/2, in [0, 1]; 1 for opposite rankings; `None` if degenerate.
    pub kendall_tau_distance: Option<f64>,
    /// Pairs of completions with the same order by reward and by log-probability.
    pub concordant: u64,
    /// Pairs of completions with opposite orders.
    pub discordant: u64,
    /// Pairs tied in either. The three counts add up to N·(N−1)/2.
    pub tied: u64,
}

impl Conflict {
    /// Whether all figures are finite.
    pub(crate) fn is_finite(&self) -> bool {
        let means = [Some(self.mean_abs_pacs), self.kendall_tau, self.kendall_tau_distance];
        self.pacs.iter().chain(means.iter().flatten()).all(|figure| figure.is_finite())
    }

    /// Number of completions, N.
    #[must_use]
    pub fn completions(&self) -> usize {
        self.pacs.len()
    }
}

/// Scores on which conflict cannot be measured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConflictError {
    /// There is no completion.
    #[error("a prompt needs at least one completion to measure conflict on")]
    Empty,
    /// The numbers of rewards and log-probabilities differ.
    #[error("{rewards} rewards for {logprobs} log-probabilities: there must be one of each per completion")]
    Lengths {
        /// Number of rewards.
        rewards: usize,
        /// Number of log-probabilities.
        logprobs: usize,
    },
    /// A score is NaN or infinite.
    #[error("completions[{index}].{score}: must be a finite number, found {value}")]
    NotFinite {
        /// `reward` or `logprob`.
        score: &'static str,
        /// The completion, from 0.
        index: usize,
        /// The value found.
        value: f64,
    },
}

/// Measures the conflict of one prompt from the rewards and the log-probabilities (nats) of its completions,
/// both of shape `[N]` and in the same order.
///
/// # Errors
/// If there are no completions, if the lengths differ, or if a score is not finite.
pub fn measure(rewards: &[f64], logprobs: &[f64]) -> Result<Conflict, ConflictError> {
    Measurer::default().measure(rewards, logprobs)
}

/// Measures the conflict of many prompts with one working memory.
#[derive(Debug, Default)]
pub struct Measurer {
    z_rewards: Vec<f64>,
    z_logprobs: Vec<f64>,
    ranks: RankScratch,
}

impl Measurer {
    /// Measures one prompt, as [`measure`] does.
    ///
    /// # Errors
    /// If there are no completions, if the lengths differ, or if a score is not finite.
    pub fn measure(&mut self, rewards: &[f64], logprobs: &[f64]) -> Result<Conflict, ConflictError> {
        check(rewards, logprobs)?;
        let ranks = self.ranks.kendall_tau(rewards, logprobs);
        let varied = standardise(rewards, &mut self.z_rewards) && standardise(logprobs, &mut self.z_logprobs);
        let mut conflict = Conflict {
            degenerate: !varied,
            pacs: vec![0.0; rewards.len()],
            mean_abs_pacs: 0.0,
            kendall_tau: None,
            kendall_tau_distance: None,
            concordant: ranks.concordant,
            discordant: ranks.discordant,
            tied: ranks.tied,
        };
        if varied {
            for ((pacs, z_reward), z_logprob) in
                conflict.pacs.iter_mut().zip(&self.z_rewards).zip(&self.z_logprobs)
            {
                *pacs = z_reward - z_logprob;
                conflict.mean_abs_pacs += pacs.abs();
            }
            conflict.mean_abs_pacs /= rewards.len() as f64;
            conflict.kendall_tau = ranks.tau;
            conflict.kendall_tau_distance = ranks.distance();
        }
        Ok(conflict)
    }
}

fn check(rewards: &[f64], logprobs: &[f64]) -> Result<(), ConflictError> {
    if rewards.len() != logprobs.len() {
        return Err(ConflictError::Lengths { rewards: rewards.len(), logprobs: logprobs.len() });
    }
    if rewards.is_empty() {
        return Err(ConflictError::Empty);
    }
    for (score, values) in [("reward", rewards), ("logprob", logprobs)] {
        if let Some((index, &value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(ConflictError::NotFinite { score, index, value });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
