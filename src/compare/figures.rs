//! Means and their differences.

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
