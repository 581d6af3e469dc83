//! The two trainings of a round.

use serde::{Deserialize, Serialize};

/// The model that a training changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The reward model, on preferences.
    Reward,
    /// The policy, against the reward model.
    Policy,
}

impl Stage {
    /// The name of the stage.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reward => "reward",
            Self::Policy => "policy",
        }
    }
}
