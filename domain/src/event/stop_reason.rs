//! Reasons to end an experiment early.

use serde::{Deserialize, Serialize};

/// Reason to end before the last round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The KL divergence from the initial policy is too large.
    Kl,
    /// The gold reward no longer increases.
    GoldReward,
    /// Reward hacking is suspected.
    RewardHacking,
}
