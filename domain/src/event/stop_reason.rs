//! Reasons to end an experiment early.

use serde::{Deserialize, Serialize};

/// Why an experiment ends before its last round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The policy is too far from where it began.
    Kl,
    /// The gold reward no longer grows.
    GoldReward,
    /// Reward hacking is suspected.
    RewardHacking,
}
