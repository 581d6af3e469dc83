//! Intervals of a mean over independent groups, at any level.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::interval::{Interval, below, student_t_quantile};
use crate::conflict::quantile;

/// Number of groups from which the bootstrap replaces Student's t distribution. With fewer groups the
/// resampled errors are too coarse.
pub const BOOTSTRAP_GROUPS: usize = 30;

/// Number of bootstrap draws: at a level of 99.5 %, ten draws lie beyond each end.
const RESAMPLES: usize = 4000;

/// The mean of independent values, with what its intervals need.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    mean: f64,
    /// The standard error of the mean.
    error: f64,
    groups: usize,
    /// The resampled (mean* − mean) / error*, ascending; empty: Student's t distribution holds.
    studentised: Vec<f64>,
}

impl Spread {
    /// The spread of one value for each group, such as a difference for each prompt. `None` for fewer than
    /// two groups.
    ///
    /// From [`BOOTSTRAP_GROUPS`] groups on, the intervals are those of the studentised bootstrap (Efron and
    /// Tibshirani 1993, chapter 12), which follows a skewed distribution. Below, they are those of Student's
    /// t distribution. `seed` determines the draws.
    #[must_use]
    pub fn of(values: &[f64], seed: u64) -> Option<Self> {
        let (mean, error) = mean_and_error(values.len(), values.iter().copied())?;
        let studentised = if values.len() < BOOTSTRAP_GROUPS || error == 0.0 {
            Vec::new()
        } else {
            resampled(values, mean, seed)
        };
        Some(Self { mean, error, groups: values.len(), studentised })
    }

    /// The standard error of the mean.
    #[must_use]
    pub fn error(&self) -> f64 {
        self.error
    }

    /// The interval that covers the true mean with probability `level`, in (0, 1).
    #[must_use]
    pub fn interval(&self, level: f64) -> Interval {
        let tail = (1.0 - level) / 2.0;
        let [low, high] = match (quantile(&self.studentised, tail), quantile(&self.studentised, 1.0 - tail)) {
            (Some(low), Some(high)) => [low, high],
            _ => {
                let degrees = u32::try_from(self.groups - 1).unwrap_or(u32::MAX);
                let reach = student_t_quantile(1.0 - tail, degrees);
                [-reach, reach]
            }
        };
        Interval {
            mean: self.mean,
            low: self.mean - high * self.error,
            high: self.mean - low * self.error,
            n: self.groups,
        }
    }
}

/// Returns the probability of a mean at least as far from 0 if each value could as well have the other sign:
/// the paired permutation test (Fisher 1935). It holds for any number of groups and any distribution. Up to
/// 12 groups all signs are counted; beyond, `seed` draws them. 1 without values.
#[must_use]
pub fn sign_flip_p(values: &[f64], seed: u64) -> f64 {
    const EXACT_GROUPS: usize = 12;
    let observed = values.iter().sum::<f64>().abs();
    // Sums of the same numbers in another order may differ in the last bits.
    let is_as_far = |sum: f64| sum.abs() >= observed * (1.0 - 1e-12);
    let sum_of = |signs: u64| -> f64 {
        let signed = |(at, value): (usize, &f64)| if signs >> at & 1 == 1 { -value } else { *value };
        values.iter().enumerate().map(signed).sum()
    };
    if values.len() <= EXACT_GROUPS {
        let all = 1_u64 << values.len();
        return (0..all).filter(|&signs| is_as_far(sum_of(signs))).count() as f64 / all as f64;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let flipped = |_: &usize| {
        let chunks = values.chunks(64);
        let sum = chunks.map(|chunk| {
            let signs = rng.next_u64();
            let signed = |(at, value): (usize, &f64)| if signs >> at & 1 == 1 { -value } else { *value };
            chunk.iter().enumerate().map(signed).sum::<f64>()
        });
        is_as_far(sum.sum())
    };
    let as_far = (0..RESAMPLES).filter(flipped).count();
    (1 + as_far) as f64 / (1 + RESAMPLES) as f64
}

/// The values whose mean is a ratio of sums, Σ part / Σ whole, with the ratio's spread: the linearised
/// contribution of each group (Cochran 1977, 6.4). `None` if the whole is 0.
#[must_use]
pub fn ratio_contributions(parts: &[f64], wholes: &[f64]) -> Option<Vec<f64>> {
    let groups = parts.len().min(wholes.len());
    let whole: f64 = wholes[..groups].iter().sum();
    let ratio = parts[..groups].iter().sum::<f64>() / whole;
    let mean = whole / groups as f64;
    let contribution = |(part, of): (&f64, &f64)| ratio + (part - ratio * of) / mean;
    (whole > 0.0).then(|| parts.iter().zip(wholes).map(contribution).collect())
}

/// The level of each of `tests` intervals that together exclude the truth with a probability of at most 5 %
/// (Bonferroni).
#[must_use]
pub fn corrected_level(tests: usize) -> f64 {
    1.0 - 0.05 / tests.max(1) as f64
}

fn mean_and_error(count: usize, values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    let degrees = count.checked_sub(1).filter(|degrees| *degrees > 0)? as f64;
    let mean = values.clone().sum::<f64>() / count as f64;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    Some((mean, (squares / degrees / count as f64).sqrt()))
}

fn resampled(values: &[f64], mean: f64, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = vec![0.0; values.len()];
    let draw = |_| {
        drawn.iter_mut().for_each(|value| *value = values[below(values.len(), &mut rng)]);
        let (of_draw, error) = mean_and_error(drawn.len(), drawn.iter().copied())?;
        // A draw of equal values has no error. Its mean still lies on one side.
        Some(if error > 0.0 { (of_draw - mean) / error } else { (of_draw - mean) * f64::INFINITY })
            .filter(|t| !t.is_nan())
    };
    let mut studentised: Vec<f64> = (0..RESAMPLES).filter_map(draw).collect();
    studentised.sort_unstable_by(f64::total_cmp);
    // With infinite draws at the ends, Student's t distribution is the better description.
    let ends = [studentised.first(), studentised.last()];
    if ends.iter().flatten().all(|t| t.is_finite()) { studentised } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        let mut uniform = || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()
    }

    #[test]
    fn a_small_sample_has_the_interval_of_students_t() {
        // scipy.stats.t.interval(0.95, 3, 2.5, sem([1, 2, 3, 4])) = 0.4457, 4.5543.
        let interval = Spread::of(&[1.0, 2.0, 3.0, 4.0], 0).unwrap().interval(0.95);
        assert!((interval.low - 0.445_739_7).abs() < 1e-6 && (interval.high - 4.554_260_3).abs() < 1e-6);
        assert_eq!((interval.mean, interval.n), (2.5, 4));
        assert_eq!(Spread::of(&[1.0], 0), None);
        let constant = Spread::of(&[2.0; 40], 0).unwrap().interval(0.99);
        assert_eq!((constant.low, constant.high), (2.0, 2.0));
    }

    #[test]
    fn intervals_cover_the_mean_of_normal_and_skewed_values() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        for (groups, skewed) in [(12, false), (40, false), (60, true)] {
            let mut covered = 0;
            for seed in 0..500 {
                let value = |_| {
                    let z = normal(&mut rng);
                    if skewed { z * z } else { z }
                };
                let values: Vec<f64> = (0..groups).map(value).collect();
                let truth = if skewed { 1.0 } else { 0.0 };
                let interval = Spread::of(&values, seed).unwrap().interval(0.95);
                covered += u32::from(interval.low <= truth && truth <= interval.high);
            }
            // 475 expected, with a standard deviation of 5.
            assert!((460..=490).contains(&covered), "{groups} groups, skewed {skewed}: {covered} of 500");
        }
    }

    /// Source: scipy, `permutation_test((x,), np.mean, permutation_type="samples")`.
    #[test]
    fn signs_are_flipped_exactly_for_few_groups() {
        let p = sign_flip_p(&[0.9, 0.4, -0.1, 1.2, 0.3, 0.8], 0);
        assert!((p - 4.0 / 64.0).abs() < 1e-12, "{p}");
        assert!((sign_flip_p(&[1.0; 8], 0) - 2.0 / 256.0).abs() < 1e-12);
        assert!(sign_flip_p(&[1.0; 40], 0) < 0.001 && sign_flip_p(&[], 0) > 0.9);
        let balanced: Vec<f64> = (0..40).map(|at| if at % 2 == 0 { 1.0 } else { -1.0 }).collect();
        assert!(sign_flip_p(&balanced, 0) > 0.9);
    }

    #[test]
    fn the_contributions_of_a_ratio_have_its_value_as_mean() {
        let contributions = ratio_contributions(&[1.0, 0.0, 3.0], &[2.0, 1.0, 5.0]).unwrap();
        assert!((contributions.iter().sum::<f64>() / 3.0 - 0.5).abs() < 1e-12);
        assert_eq!(ratio_contributions(&[0.0], &[0.0]), None);
    }
}
