//! The area under the ROC curve: the probability that a positive is scored above a negative.

use super::ranks::midranks;

/// Returns the area under the ROC curve, in [0, 1]: the probability that a random positive has a higher score
/// than a random negative. A tie counts half.
///
/// Computed as Mann and Whitney's U over the number of such pairs, like `sklearn.metrics.roc_auc_score`.
/// Items beyond the shorter list are ignored. `None` without a positive or without a negative.
#[must_use]
pub fn auroc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let (wins, pairs) = mann_whitney(scores, positive);
    (pairs > 0.0).then(|| wins / pairs)
}

/// Returns the area under the ROC curve with a third quantity held equal. Only a positive and a negative of
/// the same stratum are compared, and all such pairs have the same weight. `None` if no stratum has both.
#[must_use]
pub fn stratified_auroc(scores: &[f64], positive: &[bool], stratum: &[u32]) -> Option<f64> {
    let strata = stratum.iter().max().map_or(0, |&most| most + 1);
    let (mut wins, mut pairs) = (0.0, 0.0);
    for this in 0..strata {
        let members = || scores.iter().zip(positive).zip(stratum).filter(|(_, of)| **of == this);
        let scores: Vec<f64> = members().map(|((score, _), _)| *score).collect();
        let positive: Vec<bool> = members().map(|((_, positive), _)| *positive).collect();
        let of_stratum = mann_whitney(&scores, &positive);
        wins += of_stratum.0;
        pairs += of_stratum.1;
    }
    (pairs > 0.0).then(|| wins / pairs)
}

/// Counts the pairs of a positive and a negative: those in which the positive has the higher score, and all.
/// A tie counts half.
fn mann_whitney(scores: &[f64], positive: &[bool]) -> (f64, f64) {
    let of = scores.len().min(positive.len());
    let ranks = midranks(&scores[..of]);
    let positives = positive[..of].iter().filter(|positive| **positive).count() as f64;
    let rank_sum: f64 =
        ranks.iter().zip(positive).filter(|(_, positive)| **positive).map(|(rank, _)| rank).sum();
    (rank_sum - positives * (positives + 1.0) / 2.0, positives * (of as f64 - positives))
}
