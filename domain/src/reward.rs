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

/// The outputs of a reward model with several that make up its score.
///
/// # Examples
/// ```
/// use dissent_domain::reward::RewardOutput;
///
/// assert_eq!(RewardOutput::Label(1).factors(3)?, [0.0, 1.0, 0.0]);
/// assert_eq!(RewardOutput::Weights(vec![0.5, -1.0]).factors(2)?, [0.5, -1.0]);
/// assert!(RewardOutput::Label(3).factors(3).is_err());
/// # Ok::<(), dissent_domain::reward::UnsuitableOutput>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardOutput {
    /// One output, counted from 0.
    Label(u32),
    /// The weighted sum of all outputs, with a finite weight for each.
    Weights(Vec<f64>),
}

/// Outputs that a reward model does not have.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum UnsuitableOutput {
    /// The label is beyond the outputs.
    #[error("label {label} is out of range: the reward model has {outputs} outputs, counted from 0")]
    Label {
        /// The label.
        label: u32,
        /// The outputs of the model.
        outputs: usize,
    },
    /// The number of weights is not the number of outputs.
    #[error("{weights} weights do not fit the {outputs} outputs of the reward model: use one for each")]
    Weights {
        /// The number of weights.
        weights: usize,
        /// The outputs of the model.
        outputs: usize,
    },
    /// A weight is infinite or NaN.
    #[error("a weight of the reward model's outputs is not finite: use numbers")]
    NotFinite,
}

impl RewardOutput {
    /// Returns the factor of each of a model's outputs in the score.
    ///
    /// # Errors
    /// If the label or the number of weights does not fit, or a weight is not finite.
    pub fn factors(&self, outputs: usize) -> Result<Vec<f64>, UnsuitableOutput> {
        match self {
            Self::Label(label) => {
                let chosen = usize::try_from(*label).unwrap_or(usize::MAX);
                if chosen >= outputs {
                    return Err(UnsuitableOutput::Label { label: *label, outputs });
                }
                Ok((0..outputs).map(|output| if output == chosen { 1.0 } else { 0.0 }).collect())
            }
            Self::Weights(weights) if weights.len() != outputs => {
                Err(UnsuitableOutput::Weights { weights: weights.len(), outputs })
            }
            Self::Weights(weights) if weights.iter().any(|weight| !weight.is_finite()) => {
                Err(UnsuitableOutput::NotFinite)
            }
            Self::Weights(weights) => Ok(weights.clone()),
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
