//! A distribution in seven numbers.

use serde::{Deserialize, Serialize};

/// Mean, spread and quantiles of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The mean.
    pub mean: f64,
    /// The population standard deviation.
    pub sd: f64,
    /// The 1 % quantile.
    pub q01: f64,
    /// The 5 % quantile.
    pub q05: f64,
    /// The median.
    pub q50: f64,
    /// The 95 % quantile.
    pub q95: f64,
    /// The 99 % quantile.
    pub q99: f64,
}

impl Quantiles {
    /// Computes the quantiles of a sample in any order; `None` if it is empty.
    #[must_use]
    pub fn of(sample: &[f64]) -> Option<Self> {
        let mut sorted = sample.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Self::of_sorted(&sorted)
    }

    /// Computes the quantiles of a sample in ascending order; `None` if it is empty.
    #[must_use]
    pub fn of_sorted(sorted: &[f64]) -> Option<Self> {
        let n = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / n;
        let variance = sorted.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
        Some(Self {
            mean,
            sd: variance.sqrt(),
            q01: quantile(sorted, 0.01)?,
            q05: quantile(sorted, 0.05)?,
            q50: quantile(sorted, 0.50)?,
            q95: quantile(sorted, 0.95)?,
            q99: quantile(sorted, 0.99)?,
        })
    }
}

/// Returns the `p` quantile of an ascending sample, by linear interpolation between neighbours (the default
/// of numpy). `p` is clamped to [0, 1]. `None` if the sample is empty.
#[must_use]
pub fn quantile(sorted: &[f64], p: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = p.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the position lies between 0 and the last index"
    )]
    let below = position.floor() as usize;
    let low = *sorted.get(below)?;
    let high = *sorted.get(below + 1).unwrap_or(&low);
    Some(low + (high - low) * (position - below as f64))
}
