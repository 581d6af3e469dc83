//! Means and their differences.

use dissent_domain::analysis::Interval;
use dissent_domain::event::PolicyEvaluated;
use dissent_domain::learning::{HeldOutFigure, differences};
use serde::Serialize;

/// A mean over prompts with its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) mean: f64,
    pub(crate) error: f64,
}

/// The difference of two means.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Difference {
    pub(crate) mean: f64,
    /// The standard error; of an unpaired difference, from both errors as if they were independent.
    pub(crate) error: f64,
    /// The 95 % interval. Only paired differences have one.
    pub(crate) interval: Option<[f64; 2]>,
    /// Whether the difference is taken prompt by prompt.
    pub(crate) paired: bool,
    /// The prompts behind it.
    pub(crate) prompts: u32,
}

impl Difference {
    /// Returns the difference of two means whose prompts are not matched.
    pub(super) fn unpaired(after: Figure, before: Figure, prompts: u32) -> Self {
        let error = after.error.hypot(before.error);
        Self { mean: after.mean - before.mean, error, interval: None, paired: false, prompts }
    }

    /// Returns the difference of the gold rewards of two evaluations, paired by prompt; `None` if one of them
    /// has no figures by prompt, or they share fewer than two prompts.
    pub(super) fn paired_gold(before: &PolicyEvaluated, after: &PolicyEvaluated) -> Option<Self> {
        let found = differences(before, after);
        let (_, gold) = found.iter().find(|(figure, _)| *figure == HeldOutFigure::GoldReward)?;
        let Interval { mean, low, high, n } = gold.interval;
        Some(Self {
            mean,
            error: gold.error,
            interval: Some([low, high]),
            paired: true,
            prompts: u32::try_from(n).unwrap_or(u32::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpaired_difference_has_the_errors_of_both_means() {
        let figure = |mean, error| Figure { mean, error };
        let difference = Difference::unpaired(figure(0.5, 0.3), figure(0.2, 0.4), 12);
        assert!((difference.mean - 0.3).abs() < 1e-12 && (difference.error - 0.5).abs() < 1e-12);
        assert_eq!((difference.paired, difference.interval), (false, None));
    }
}
