//! Confidence intervals.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::conflict::quantile;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Number of observations: seeds, or groups of items.
    pub n: usize,
}

/// The mean of independent observations with its 95 % interval by Student's t with n − 1 degrees of freedom.
/// None for fewer than two: one observation says nothing about its spread.
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

/// The 95 % interval of a statistic of `groups` that were drawn independently, such as prompts with all their
/// pairs: the 2.5 % and 97.5 % quantiles over `resamples` draws of as many groups with replacement (the
/// percentile bootstrap). The statistic is given the indices of the groups; draws for which it is undefined
/// are left out. None if it is undefined for the groups themselves, or for more than half of the draws.
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

/// [`bootstrap_interval`] of several statistics on the same draws; `statistics` gives as many values for
/// every draw.
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

/// Uniform in 0..count. The remainder of 64 bits is uneven by less than 2⁻⁴⁰ for any number of groups that
/// fits in memory.
fn below(count: usize, rng: &mut ChaCha8Rng) -> usize {
    usize::try_from(rng.next_u64() % count.max(1) as u64).unwrap_or(0)
}

/// The `p` quantile, 0.5 ≤ p < 1, of Student's t distribution with so many degrees of freedom (≥ 1).
///
/// By bisection on the distribution function, which for whole degrees of freedom is a finite sum (Abramowitz
/// and Stegun, 26.7.3 and 26.7.4).
#[must_use]
pub fn student_t_quantile(p: f64, degrees: u32) -> f64 {
    let (mut low, mut high) = (0.0, 2.0);
    while student_t_cdf(high, degrees) < p && high < 1e12 {
        high *= 2.0;
    }
    // Each step halves the range; 100 leave none between neighbouring numbers.
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
    // Terms cosᵏ θ · (2·4·…)/(3·5·…), k odd, or (1·3·…)/(2·4·…), k even.
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
