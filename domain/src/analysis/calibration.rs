//! Accuracy and calibration of a reward model on pairs.

use serde::{Deserialize, Serialize};

use super::interval::Interval;

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Pairs whose confidence lies in one range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// The smallest confidence, included.
    pub from: f64,
    /// The largest confidence; included in the last bin only.
    pub to: f64,
    /// Number of pairs.
    pub pairs: usize,
    /// The mean confidence of the pairs; 0 without pairs.
    pub confidence: f64,
    /// The share of the pairs in the right order, where a tie counts half; 0 without pairs.
    pub accuracy: f64,
}

/// Agreement between the confidence σ(|margin|) of a Bradley–Terry model and its accuracy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error (arXiv 1706.04599), in [0, 0.5]: the mean over pairs of |accuracy −
    /// confidence| of their bin.
    pub expected_error: f64,
    /// Bins of equal width over [0.5, 1].
    pub bins: Vec<ReliabilityBin>,
}

/// Returns the calibration of pairs in `bins` ≥ 1 bins. A margin is the reward of the chosen completion minus
/// that of the other. `None` without pairs.
#[must_use]
pub fn calibration(margins: &[f64], bins: usize) -> Option<Calibration> {
    if margins.is_empty() || bins == 0 {
        return None;
    }
    let mut sums = vec![(0_usize, 0.0, 0.0); bins];
    for &margin in margins {
        let confidence = 1.0 / (1.0 + (-margin.abs()).exp());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of the bins, at least 0"
        )]
        let bin = (((confidence - 0.5) * 2.0 * bins as f64) as usize).min(bins - 1);
        let (pairs, confidences, rights) = &mut sums[bin];
        *pairs += 1;
        *confidences += confidence;
        *rights += right(margin);
    }
    let edge = |bin: usize| 0.5 + 0.5 * bin as f64 / bins as f64;
    let expected_error =
        sums.iter().map(|(_, confidences, rights)| f64::abs(rights - confidences)).sum::<f64>()
            / margins.len() as f64;
    let bin = |(index, (pairs, confidences, rights)): (usize, (usize, f64, f64))| {
        let mean = |sum: f64| if pairs == 0 { 0.0 } else { sum / pairs as f64 };
        ReliabilityBin {
            from: edge(index),
            to: edge(index + 1),
            pairs,
            confidence: mean(confidences),
            accuracy: mean(rights),
        }
    };
    Some(Calibration { expected_error, bins: sums.into_iter().enumerate().map(bin).collect() })
}

/// Returns the share of pairs with a positive margin, with its 95 % interval after Wilson (1927). A tie
/// counts half. `None` without pairs.
#[must_use]
pub fn pairwise_accuracy(margins: &[f64]) -> Option<Interval> {
    if margins.is_empty() {
        return None;
    }
    let n = margins.len() as f64;
    let mean = margins.iter().map(|&margin| right(margin)).sum::<f64>() / n;
    let squared = Z * Z / n;
    let centre = (mean + squared / 2.0) / (1.0 + squared);
    let reach = Z / (1.0 + squared) * (mean * (1.0 - mean) / n + squared / (4.0 * n)).sqrt();
    Some(Interval { mean, low: centre - reach, high: centre + reach, n: margins.len() })
}

fn right(margin: f64) -> f64 {
    if margin > 0.0 {
        1.0
    } else if margin < 0.0 {
        0.0
    } else {
        0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(seen: f64, expected: f64) {
        assert!((seen - expected).abs() < 1e-6, "{seen} is not {expected}");
    }

    /// Source: scipy, `binomtest(7, 10).proportion_ci(method="wilson")`, and the same for 50 of 50.
    #[test]
    fn accuracy_has_the_wilson_interval() {
        let margins: Vec<f64> = (0..10).map(|pair| if pair < 7 { 1.0 } else { -1.0 }).collect();
        let accuracy = pairwise_accuracy(&margins).unwrap();
        near(accuracy.mean, 0.7);
        near(accuracy.low, 0.396_778_1);
        near(accuracy.high, 0.892_208_7);
        let all = pairwise_accuracy(&[0.1; 50]).unwrap();
        near(all.low, 0.928_652_4);
        near(all.high, 1.0);
        near(pairwise_accuracy(&[0.0, 1.0]).unwrap().mean, 0.75);
        assert_eq!(pairwise_accuracy(&[]), None);
    }

    #[test]
    fn a_calibrated_model_has_no_calibration_error() {
        // σ(ln 3) = 0.75, and three of four are right.
        let margin = 3.0_f64.ln();
        let calibrated = calibration(&[margin, margin, margin, -margin], 5).unwrap();
        near(calibrated.expected_error, 0.0);
        assert_eq!(calibrated.bins.iter().map(|bin| bin.pairs).sum::<usize>(), 4);
        let sure = calibration(&[20.0, -20.0], 5).unwrap();
        near(sure.expected_error, 0.5);
        assert_eq!((sure.bins[4].pairs, sure.bins[4].to), (2, 1.0));
        // A tie has confidence 0.5 and counts half.
        near(calibration(&[0.0], 1).unwrap().expected_error, 0.0);
        assert_eq!(calibration(&[], 5), None);
    }
}
