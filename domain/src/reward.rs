//! The reward step: the meaning of a reward model's raw score.

use serde::{Deserialize, Serialize};

/// The meaning of a larger score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// Larger is better.
    #[default]
    Reward,
    /// Larger is worse, as in the cost models of Safe-RLHF. The reward step negates it.
    Cost,
}

impl RewardKind {
    /// Returns the reward for a raw score of the model: larger is better.
    #[must_use]
    pub fn reward(self, score: f64) -> f64 {
        match self {
            Self::Reward => score,
            Self::Cost => -score,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_negated_and_a_reward_is_not() {
        assert!((RewardKind::Cost.reward(1.5) + 1.5).abs() < f64::EPSILON);
        assert!((RewardKind::Reward.reward(1.5) - 1.5).abs() < f64::EPSILON);
    }
}
