//! Confidence intervals.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::conflict::quantile;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate, a mean or another statistic.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Number of observations: seeds, or groups of items.
    pub n: usize,
}

/// Returns the mean of n independent observations with its 95 % interval, by Student's t distribution with
/// n − 1 degrees of freedom. `None` for fewer than two: a single observation has no spread.
#[must_use]
pub fn t_interval(observations: &[f64]) -> Option<Interval> {
    let n = observations.len();
    let degrees = u32::try_from(n.checked_sub(1)?).ok().filter(|degrees| *degrees > 0)?;
    let mean = observations.iter().sum::<f64>() / n as f64;
    let squares: f64 = observations.iter().map(|value| (value - mean).powi(2)).sum();
    let error = (squares / f64::from(degrees) / n as f64).sqrt();
    let reach = student_t_quantile(0.975, degrees) * error;
    Some(Interval { mean, low: mean - reach, high: mean + reach, n })
}

/// Returns the 95 % interval of a statistic over independent groups, such as prompts with all their pairs.
///
/// The method is the percentile bootstrap: the 2.5 % and 97.5 % quantiles over `resamples` draws. Each draw
/// takes as many groups, with replacement. The statistic receives the indices of the groups; draws for which
/// it is undefined are left out. `None` if it is undefined for the groups themselves or for more than half of
/// the draws.
#[must_use]
pub fn bootstrap_interval(
    groups: usize,
    resamples: usize,
    seed: u64,
    mut statistic: impl FnMut(&[usize]) -> Option<f64>,
) -> Option<Interval> {
    let one = bootstrap_intervals(groups, resamples, seed, |drawn| vec![statistic(drawn)]);
    one.into_iter().next().flatten()
}

/// Returns the [`bootstrap_interval`] of several statistics on the same draws. `statistics` returns the same
/// number of values for each draw.
#[must_use]
pub fn bootstrap_intervals(
    groups: usize,
    resamples: usize,
    seed: u64,
    mut statistics: impl FnMut(&[usize]) -> Vec<Option<f64>>,
) -> Vec<Option<Interval>> {
    let mut drawn: Vec<usize> = (0..groups).collect();
    let estimates = statistics(&drawn);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = vec![Vec::with_capacity(resamples); estimates.len()];
    for _ in 0..resamples {
        drawn.iter_mut().for_each(|group| *group = below(groups, &mut rng));
        for (values, value) in values.iter_mut().zip(statistics(&drawn)) {
            values.extend(value);
        }
    }
    let interval = |(mean, mut values): (Option<f64>, Vec<f64>)| {
        values.sort_unstable_by(f64::total_cmp);
        if 2 * values.len() < resamples {
            return None;
        }
        let (low, high) = (quantile(&values, 0.025)?, quantile(&values, 0.975)?);
        Some(Interval { mean: mean?, low, high, n: groups })
    };
    estimates.into_iter().zip(values).map(interval).collect()
}

/// Draws a uniform number in 0..count. The bias of the remainder is below 2⁻⁴⁰ for any number of groups that
/// fits in memory.
pub(super) fn below(count: usize, rng: &mut ChaCha8Rng) -> usize {
    usize::try_from(rng.next_u64() % count.max(1) as u64).unwrap_or(0)
}

/// Returns the `p` quantile of Student's t distribution, for 0.5 ≤ `p` < 1 and `degrees` ≥ 1 degrees of
/// freedom.
///
/// Bisects the distribution function. For whole degrees of freedom that function is a finite sum (Abramowitz
/// and Stegun, 26.7.3 and 26.7.4).
#[must_use]
pub fn student_t_quantile(p: f64, degrees: u32) -> f64 {
    let (mut low, mut high) = (0.0, 2.0);
    while student_t_cdf(high, degrees) < p && high < 1e12 {
        high *= 2.0;
    }
    // Each step halves the range. After 100 steps its ends are neighbouring numbers.
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if student_t_cdf(middle, degrees) < p { low = middle } else { high = middle }
    }
    high
}

/// P(T ≤ t) for t ≥ 0.
fn student_t_cdf(t: f64, degrees: u32) -> f64 {
    let nu = f64::from(degrees);
    let theta = (t / nu.sqrt()).atan();
    let cos2 = theta.cos().powi(2);
    let is_odd = degrees % 2 == 1;
    // The terms: cosᵏ θ · (2·4·…)/(3·5·…) for odd k, cosᵏ θ · (1·3·…)/(2·4·…) for even k.
    let mut term = if is_odd { theta.cos() } else { 1.0 };
    let mut sum = if degrees == 1 { 0.0 } else { term };
    let mut k = if is_odd { 2 } else { 1 };
    while k + 3 <= degrees {
        term *= cos2 * f64::from(k) / f64::from(k + 1);
        sum += term;
        k += 2;
    }
    let within =
        if is_odd { std::f64::consts::FRAC_2_PI * (theta + theta.sin() * sum) } else { theta.sin() * sum };
    0.5 + within / 2.0
}
