//! Won, lost or tied: the interval decides, never the mean.

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
    /// The interval contains 0.
    Tied,
}

impl ComparisonResult {
    /// Decides by the interval of an advantage. The advantage is positive where the first of the two is
    /// better.
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

    /// The name of the result, as in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Tied => "tied",
        }
    }
}
