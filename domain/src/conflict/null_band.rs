//! The null band: the distribution of conflict for independent rewards and log-probabilities.
//!
//! For N = 8, mean|PACS| of pure noise has mean 1.145 and exceeds 1.0 in 72 % of prompts. A threshold is
//! meaningful only relative to this band.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use super::pacs::standardise;
use super::{Quantiles, quantile};

/// Number of |differences| computed in all: it bounds the time for every N. A smaller N has a wider band and
/// gets more draws.
const WORK: usize = 1_600_000;
const DRAWS_MIN: usize = 400;
const DRAWS_MAX: usize = 200_000;
/// Largest number of completions that is simulated. For more, this band is narrowed as 1/√N, because the
/// limit is normal.
const SIMULATED_MAX: usize = 4096;
/// Largest number of completions with an exact distribution of tau. It is then normal to within .001. For
/// more, it is narrowed to the standard deviation of tau at N.
const EXACT_MAX: usize = 128;
/// Number of measured rotations of one sample against the other, per pair of samples.
const ROTATIONS_MAX: usize = 8;

/// The distributions of mean|PACS| and of the Kendall-tau distance over prompts of N completions. Rewards and
/// log-probabilities are independent and normal; tau has the same distribution for any continuous law.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NullBand {
    /// Completions per prompt, N ≥ 2.
    pub completions: usize,
    /// Quantiles of mean|PACS|, by Monte Carlo, to about ±.005.
    pub mean_abs_pacs: Quantiles,
    /// Quantiles of the Kendall-tau distance: exact up to N = 128, then the normal limit. An exact quantile
    /// is the smallest distance with at least that probability at or below it.
    pub kendall_tau_distance: Quantiles,
    /// Draws of mean|PACS|, ascending.
    #[serde(skip)]
    draws: Vec<f64>,
    /// Each possible distance, ascending, and the probability of at most this distance.
    #[serde(skip)]
    cumulative: Vec<(f64, f64)>,
}

impl NullBand {
    /// The probability that noise has a mean|PACS| above `delta`.
    #[must_use]
    pub fn mean_abs_pacs_above(&self, delta: f64) -> f64 {
        let at_most = self.draws.partition_point(|&draw| draw <= delta);
        (self.draws.len() - at_most) as f64 / self.draws.len() as f64
    }

    /// The probability that noise has a Kendall-tau distance of at least `tau`.
    #[must_use]
    pub fn distance_at_least(&self, tau: f64) -> f64 {
        let below = self.cumulative.partition_point(|&(distance, _)| distance < tau);
        1.0 - below.checked_sub(1).map_or(0.0, |last| self.cumulative[last].1)
    }

    /// The `p` quantile of mean|PACS| of noise, `p` in [0, 1].
    #[must_use]
    pub fn mean_abs_pacs_quantile(&self, p: f64) -> f64 {
        quantile(&self.draws, p).unwrap_or(f64::NAN)
    }
}

/// Returns the null band for prompts of `completions` completions; `None` below 2, where no conflict is
/// possible. The same `seed` gives the same band. It takes tens of milliseconds: keep the result.
#[must_use]
pub fn null_band(completions: usize, seed: u64) -> Option<NullBand> {
    if completions < 2 {
        return None;
    }
    let draws = mean_abs_pacs_draws(completions, seed);
    let cumulative = distance_distribution(completions);
    Some(NullBand {
        completions,
        mean_abs_pacs: Quantiles::of_sorted(&draws)?,
        kendall_tau_distance: distance_quantiles(completions, &cumulative)?,
        draws,
        cumulative,
    })
}

fn mean_abs_pacs_draws(completions: usize, seed: u64) -> Vec<f64> {
    let n = completions.min(SIMULATED_MAX);
    let wanted = (WORK / n).clamp(DRAWS_MIN, DRAWS_MAX);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draws = Vec::with_capacity(wanted + 2 * ROTATIONS_MAX);
    let (mut sample, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
    while draws.len() < wanted {
        for z in [&mut first, &mut second] {
            normals(&mut rng, n, &mut sample);
            standardise(&sample, z);
        }
        // Normal deviates are expensive. Each rotation and each mirror image of one sample is an equally good
        // partner for the other, and mirrored pairs cancel much of the error.
        for rotation in 0..n.min(ROTATIONS_MAX) {
            let rotated = second[rotation..].iter().chain(&second[..rotation]);
            let (mut minus, mut plus) = (0.0, 0.0);
            for (a, b) in first.iter().zip(rotated) {
                minus += (a - b).abs();
                plus += (a + b).abs();
            }
            draws.extend([minus / n as f64, plus / n as f64]);
        }
    }
    if n < completions {
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let narrower = (n as f64 / completions as f64).sqrt();
        draws.iter_mut().for_each(|draw| *draw = mean + (*draw - mean) * narrower);
    }
    draws.sort_unstable_by(f64::total_cmp);
    draws
}

/// Fills `sample` with `n` standard normal deviates (Box–Muller).
pub(super) fn normals(rng: &mut ChaCha8Rng, n: usize, sample: &mut Vec<f64>) {
    sample.clear();
    while sample.len() < n {
        let radius = (-2.0 * uniform(rng).ln()).sqrt();
        let (sin, cos) = (TAU * uniform(rng)).sin_cos();
        sample.extend([radius * cos, radius * sin]);
    }
    sample.truncate(n);
}

/// Draws uniformly from (0, 1]: the logarithm of 0 is not finite.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// Returns each possible Kendall-tau distance and the probability of at most this distance, over random
/// rankings.
fn distance_distribution(completions: usize) -> Vec<(f64, f64)> {
    let n = completions.min(EXACT_MAX);
    let probabilities = inversion_probabilities(n);
    let most = (probabilities.len() - 1) as f64;
    let narrower = distance_sd(completions) / distance_sd(n);
    let mut at_most = 0.0;
    let cumulative = probabilities.iter().enumerate().map(|(inversions, probability)| {
        at_most += probability;
        (0.5 + (inversions as f64 / most - 0.5) * narrower, f64::min(at_most, 1.0))
    });
    cumulative.collect()
}

/// Returns the probability of each number of inversions of a random permutation of `n`: Mahonian numbers over
/// n!. The item inserted m-th adds 0 to m − 1 inversions with equal probabilities.
fn inversion_probabilities(n: usize) -> Vec<f64> {
    let mut probabilities = vec![1.0];
    for m in 2..=n {
        let mut next = vec![0.0; probabilities.len() + m - 1];
        let mut window = 0.0;
        for (inversions, slot) in next.iter_mut().enumerate() {
            window += probabilities.get(inversions).unwrap_or(&0.0);
            if inversions >= m {
                window -= probabilities.get(inversions - m).unwrap_or(&0.0);
            }
            *slot = f64::max(window, 0.0) / m as f64;
        }
        probabilities = next;
    }
    probabilities
}

/// Returns the standard deviation of the distance over random rankings: half that of tau.
fn distance_sd(completions: usize) -> f64 {
    let n = completions as f64;
    (2.0 * (2.0 * n + 5.0) / (9.0 * n * (n - 1.0))).sqrt() / 2.0
}

fn distance_quantiles(completions: usize, cumulative: &[(f64, f64)]) -> Option<Quantiles> {
    // A sum of rounded probabilities may be slightly below p.
    let quantile = |p: f64| {
        let index = cumulative.partition_point(|&(_, at_most)| at_most < p - 1e-12);
        cumulative.get(index).or(cumulative.last()).map(|&(distance, _)| distance)
    };
    Some(Quantiles {
        mean: 0.5,
        sd: distance_sd(completions),
        q01: quantile(0.01)?,
        q05: quantile(0.05)?,
        q50: quantile(0.50)?,
        q95: quantile(0.95)?,
        q99: quantile(0.99)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::kendall_tau;
    use super::*;

    #[track_caller]
    fn assert_near(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() <= tolerance, "{found}, expected {expected} ± {tolerance}");
    }

    #[test]
    fn the_band_of_eight_completions_is_the_documented_one_whatever_the_seed() {
        for seed in 0..5 {
            let band = null_band(8, seed).unwrap();
            let found = band.mean_abs_pacs;
            assert_near(found.mean, 1.145, 0.0025);
            for (found, expected) in [
                (found.q01, 0.526),
                (found.q05, 0.704),
                (found.q50, 1.160),
                (found.q95, 1.536),
                (found.q99, 1.653),
                (band.mean_abs_pacs_above(1.0), 0.721),
            ] {
                assert_near(found, expected, 0.0055);
            }
            assert_near(band.mean_abs_pacs_quantile(1.0 - 0.721), 1.0, 0.005);
        }
    }

    #[test]
    fn one_completion_has_no_band_and_two_either_agree_or_oppose() {
        assert_eq!(null_band(0, 0), None);
        assert_eq!(null_band(1, 0), None);
        let band = null_band(2, 0).unwrap();
        assert_near(band.mean_abs_pacs.q05, 0.0, 1e-9);
        assert_near(band.mean_abs_pacs.q95, 2.0, 1e-9);
        assert_near(band.mean_abs_pacs_above(1.0), 0.5, 1e-9);
        assert_near(band.distance_at_least(0.5), 0.5, 1e-12);
    }

    #[test]
    fn the_same_seed_gives_the_same_band() {
        assert_eq!(null_band(5, 3), null_band(5, 3));
        assert_ne!(null_band(5, 3).unwrap().mean_abs_pacs, null_band(5, 4).unwrap().mean_abs_pacs);
    }

    /// All orders of `0..n`, by Heap's algorithm.
    fn permutations(n: usize) -> Vec<Vec<f64>> {
        fn visit(k: usize, items: &mut Vec<f64>, all: &mut Vec<Vec<f64>>) {
            if k <= 1 {
                return all.push(items.clone());
            }
            for i in 0..k {
                visit(k - 1, items, all);
                items.swap(if k.is_multiple_of(2) { i } else { 0 }, k - 1);
            }
        }
        let mut all = Vec::new();
        visit(n, &mut (0..n).map(|item| item as f64).collect(), &mut all);
        all
    }

    #[test]
    fn the_distribution_of_the_distance_is_that_of_all_permutations() {
        let identity: Vec<f64> = (0..7).map(f64::from).collect();
        let orders = permutations(7);
        assert_eq!(orders.len(), 5040);
        let band = null_band(7, 0).unwrap();
        for threshold in [0.0, 0.05, 0.3, 0.5, 0.7, 1.0] {
            let at_least = orders.iter().filter(|order| {
                kendall_tau(&identity, order).distance().is_some_and(|distance| distance >= threshold)
            });
            assert_near(band.distance_at_least(threshold), at_least.count() as f64 / 5040.0, 1e-12);
        }
        let mut distances: Vec<f64> =
            orders.iter().filter_map(|order| kendall_tau(&identity, order).distance()).collect();
        distances.sort_unstable_by(f64::total_cmp);
        assert_near(band.kendall_tau_distance.q05, distances[5040 / 20 - 1], 1e-12);
        assert_near(band.kendall_tau_distance.sd, Quantiles::of(&distances).unwrap().sd, 1e-12);
    }

    #[test]
    fn large_prompts_follow_the_normal_limit() {
        for completions in [EXACT_MAX, EXACT_MAX + 1, 1000, 1_000_000_000] {
            let band = null_band(completions, 0).unwrap().kendall_tau_distance;
            let sd = distance_sd(completions);
            for (found, z) in
                [(band.q01, -2.326_348), (band.q05, -1.644_854), (band.q50, 0.0), (band.q99, 2.326_348)]
            {
                assert_near((found - 0.5) / sd, z, 0.02);
            }
        }
    }

    #[test]
    fn the_spread_of_mean_abs_pacs_falls_to_its_limit() {
        // By the delta method, √N·sd → √(2 − 5/π), and the mean → 2/√π.
        for completions in [1000, 4096, 5000, 1_000_000_000] {
            let band = null_band(completions, 0).unwrap().mean_abs_pacs;
            let limit = (2.0 - 5.0 / std::f64::consts::PI).sqrt();
            assert_near(band.sd * (completions as f64).sqrt(), limit, 0.05);
            assert_near(band.mean, 2.0 / std::f64::consts::PI.sqrt(), 0.002);
        }
    }
}
