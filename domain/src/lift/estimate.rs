//! Estimates from weighted pairs, with intervals over prompts.
//!
//! Each estimate comes with the contribution of every prompt to it: the linearised influence of the prompt's
//! pairs (Binder 1983, <https://doi.org/10.2307/1402588>). The sum of their squares is the variance.

use crate::analysis::{Interval, midranks, student_t_quantile};

/// An estimate with the contributions of the prompts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Estimate {
    pub(super) value: f64,
    contributions: Vec<f64>,
    /// The coefficient of each judged pair's error, if the estimate is linear in the errors.
    coefficients: Vec<f64>,
    /// The variance of each judged pair's error, beyond what is seen where few pairs happen to be alike.
    variances: Vec<f64>,
}

/// A judged pair with its weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weighted {
    pub(super) cluster: usize,
    pub(super) error: f64,
    pub(super) weight: f64,
    /// The group within which scores are compared: the round.
    pub(super) group: usize,
    /// The stratum of the group.
    pub(super) stratum: usize,
    /// Two judged pairs of the stratum stand for this many times the product of their weights: pairs are
    /// drawn without replacement, so a pair is not drawn beside itself.
    pub(super) joint: f64,
    pub(super) score: f64,
}

/// A part of a mean: pairs of which the judged ones stand for all.
pub(super) struct Stratum {
    /// Number of pairs.
    pub(super) size: usize,
    /// The judged ones, by their place among all judged pairs.
    pub(super) judged: Vec<usize>,
}

impl Estimate {
    /// The mean error over strata of the judged `pairs`, each weighted by its size. A stratum without a
    /// judged pair is left out. `variances` are those of the errors.
    pub(super) fn mean(
        strata: &[Stratum],
        pairs: &[Weighted],
        variances: &[f64],
        clusters: usize,
    ) -> Option<Self> {
        let known = || strata.iter().filter(|stratum| !stratum.judged.is_empty());
        let size: f64 = known().map(|stratum| stratum.size as f64).sum();
        if size == 0.0 {
            return None;
        }
        let (mut value, mut contributions) = (0.0, vec![0.0; clusters]);
        let mut coefficients = vec![0.0; pairs.len()];
        for Stratum { size: of_stratum, judged } in known() {
            let coefficient = *of_stratum as f64 / size / judged.len() as f64;
            let mean = judged.iter().map(|&place| pairs[place].error).sum::<f64>() / judged.len() as f64;
            for &place in judged {
                let Weighted { cluster, error, .. } = pairs[place];
                value += coefficient * error;
                contributions[cluster] += coefficient * (error - mean);
                coefficients[place] = coefficient;
            }
        }
        Some(Self { value, contributions, coefficients, variances: variances.to_vec() })
    }

    /// The area under the ROC curve of a score for errors: the probability that a pair with an error has the
    /// higher score, over all pairs of the rounds. `None` without errors or without other pairs.
    pub(super) fn auroc(pairs: &[Weighted], clusters: usize) -> Option<Self> {
        let groups = pairs.iter().map(|pair| pair.group).max()? + 1;
        let strata = pairs.iter().map(|pair| pair.stratum).max()? + 1;
        let (mut wins, mut all) = (0.0, 0.0);
        let mut parts = Vec::new();
        for group in 0..groups {
            let members: Vec<&Weighted> = pairs.iter().filter(|pair| pair.group == group).collect();
            // All pairs of the group against each other, then what those within a stratum lack.
            let mut layers = vec![(members.clone(), 1.0)];
            for stratum in 0..strata {
                let within: Vec<&Weighted> =
                    members.iter().copied().filter(|pair| pair.stratum == stratum).collect();
                let lacking = within.first().map_or(0.0, |pair| pair.joint - 1.0);
                layers.push((within, lacking));
            }
            for (members, factor) in layers {
                let [of_layer, pairs_of_layer] = compared(&members, factor, &mut parts);
                wins += of_layer;
                all += pairs_of_layer;
            }
        }
        if all <= 0.0 {
            return None;
        }
        let value = wins / all;
        let mut contributions = vec![0.0; clusters];
        for Compared { pair, beats, beaten_by, positives, negatives, factor } in parts {
            let as_error = pair.error * (beats - value * negatives);
            let as_other = (1.0 - pair.error) * (beaten_by - value * positives);
            contributions[pair.cluster] += factor * pair.weight * (as_error + as_other) / all;
        }
        Some(Self { value, contributions, coefficients: Vec::new(), variances: Vec::new() })
    }

    /// This estimate minus another one, from the same pairs.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        Self {
            value: self.value - other.value,
            contributions: less(&self.contributions, &other.contributions),
            coefficients: less(&self.coefficients, &other.coefficients),
            variances: self.variances.clone(),
        }
    }

    fn variance(&self) -> f64 {
        let clusters = self.contributions.len() as f64;
        let squares: f64 = self.contributions.iter().map(|part| part.powi(2)).sum();
        let linear = self.coefficients.iter().zip(&self.variances);
        let least: f64 = linear.map(|(coefficient, variance)| coefficient.powi(2) * variance).sum();
        (squares * clusters / (clusters - 1.0).max(1.0)).max(least)
    }

    /// The degrees of freedom: the effective number of prompts that make up the variance, less one.
    fn degrees(&self) -> u32 {
        let squares: f64 = self.contributions.iter().map(|part| part.powi(2)).sum();
        let fourth: f64 = self.contributions.iter().map(|part| part.powi(4)).sum();
        let effective = if fourth > 0.0 { squares.powi(2) / fourth } else { 1.0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and the prompts"
        )]
        let degrees = (effective.round() as u32).saturating_sub(1);
        degrees.max(2)
    }

    /// The interval at `level`, by Student's t distribution.
    pub(super) fn interval(&self, level: f64) -> Interval {
        let reach = student_t_quantile(f64::midpoint(1.0, level), self.degrees()) * self.variance().sqrt();
        self.with_ends(self.value - reach, self.value + reach)
    }

    /// The interval of a share or an area at `level`, on the scale of log-odds: it stays within 0 and 1. A
    /// share of 0 or 1 has the interval of [`Self::interval`], cut.
    pub(super) fn interval_of_share(&self, level: f64) -> Interval {
        let slope = self.value * (1.0 - self.value);
        if slope <= 0.0 {
            let Interval { low, high, .. } = self.interval(level);
            return self.with_ends(low.max(0.0), high.min(1.0));
        }
        let reach =
            student_t_quantile(f64::midpoint(1.0, level), self.degrees()) * self.variance().sqrt() / slope;
        let logit = (self.value / (1.0 - self.value)).ln();
        let share = |logit: f64| 1.0 / (1.0 + (-logit).exp());
        self.with_ends(share(logit - reach), share(logit + reach))
    }

    fn with_ends(&self, low: f64, high: f64) -> Interval {
        let n = self.contributions.iter().filter(|part| **part != 0.0).count();
        Interval { mean: self.value, low, high, n }
    }
}

/// A pair among others: the weight that its error part beats, and that its other part is beaten by.
struct Compared {
    pair: Weighted,
    beats: f64,
    beaten_by: f64,
    /// The weight of all errors and of all others.
    positives: f64,
    negatives: f64,
    /// The factor of the comparisons.
    factor: f64,
}

/// Compares every pair with every other, each comparison with the product of both weights and `factor`.
/// Returns the weight of the comparisons in which an error has the higher score, and of all; ties count half.
fn compared(members: &[&Weighted], factor: f64, parts: &mut Vec<Compared>) -> [f64; 2] {
    let (positives, negatives) = (total(members, |error| error), total(members, |error| 1.0 - error));
    let ranks = midranks(&members.iter().map(|pair| pair.score).collect::<Vec<f64>>());
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by(|&a, &b| ranks[a].total_cmp(&ranks[b]));
    let (mut wins, mut positive_below, mut negative_below) = (0.0, 0.0, 0.0);
    for tied in order.chunk_by(|&a, &b| ranks[a].total_cmp(&ranks[b]).is_eq()) {
        let tied: Vec<&Weighted> = tied.iter().map(|&place| members[place]).collect();
        let (positive, negative) = (total(&tied, |error| error), total(&tied, |error| 1.0 - error));
        let beats = negative_below + negative / 2.0;
        let beaten_by = positives - positive_below - positive / 2.0;
        wins += positive * beats;
        parts.extend(tied.iter().map(|pair| Compared {
            pair: **pair,
            beats,
            beaten_by,
            positives,
            negatives,
            factor,
        }));
        positive_below += positive;
        negative_below += negative;
    }
    [factor * wins, factor * positives * negatives]
}

fn total(pairs: &[&Weighted], part: fn(f64) -> f64) -> f64 {
    pairs.iter().map(|pair| pair.weight * part(pair.error)).sum()
}
