//! Won, lost or tied: decided by an interval, never by a mean.

use serde::{Deserialize, Serialize};

use super::interval::Interval;

/// Result of a comparison, by the 95 % interval of the advantage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparisonResult {
    /// The whole interval lies above 0.
    Won,
    /// The whole interval lies below 0.
    Lost,
    /// The interval holds 0.
    Tied,
}

impl ComparisonResult {
    /// Decides by the interval of an advantage, positive where the first of the two is better.
    #[must_use]
    pub fn of(advantage: &Interval) -> Self {
        if advantage.low > 0.0 {
            Self::Won
        } else if advantage.high < 0.0 {
            Self::Lost
        } else {
            Self::Tied
        }
    }

    /// The verb.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Tied => "tied",
        }
    }
}
