//! The audit: pairs of completions drawn uniformly, beside those of the rule. They show what the rule misses.
//!
//! The rule's pairs are asked in any case. The audit draws without replacement from the other pairs. So a
//! pair has the propensity 1 if the rule selected it, and otherwise draws / (number of other pairs). Weights
//! of 1 / propensity make every sum over the judged pairs an unbiased estimate of the sum over all pairs
//! (Horvitz and Thompson 1952, <https://doi.org/10.1080/01621459.1952.10483446>).

use std::collections::BTreeSet;

use super::pairs::{Pair, ScoredCompletions, pairs};
use super::selection::shuffled;

/// Pairs that the audit drew.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuditDraws {
    /// The pairs, in prompt order.
    pub pairs: Vec<Pair>,
    /// The probability of each pair that the rule did not select, in (0, 1]; 0 without draws.
    pub propensity: f64,
}

/// Returns how many of `labels` comparisons an audit share takes: the nearest whole number, and at least one
/// where there are two or more. `share` is in [0, 1).
#[must_use]
pub fn audit_labels(labels: u64, share: f64) -> u64 {
    if share <= 0.0 || labels < 2 {
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and `labels`")]
    let part = (share * labels as f64).round() as u64;
    part.clamp(1, labels - 1)
}

/// Returns how many pairs an audit share adds to `selected` comparisons, so that it is the share of all of
/// them. `share` is in [0, 1).
#[must_use]
pub fn audit_beside(selected: u64, share: f64) -> u64 {
    if share <= 0.0 || selected == 0 {
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a finite number, 0 or more")]
    let added = (selected as f64 * share / (1.0 - share)).round() as u64;
    added.max(1)
}

/// Draws `draws` pairs uniformly, without replacement, from the pairs that are not in `selected`. The same
/// seed and the same prompts give the same draws. Degenerate prompts have no pairs.
#[must_use]
pub fn audit_draws(
    prompts: &[ScoredCompletions<'_>],
    selected: &BTreeSet<Pair>,
    draws: u64,
    seed: u64,
) -> AuditDraws {
    let others: Vec<Pair> = pairs(prompts).into_iter().filter(|pair| !selected.contains(pair)).collect();
    let draws = usize::try_from(draws).unwrap_or(usize::MAX).min(others.len());
    if draws == 0 {
        return AuditDraws::default();
    }
    let propensity = draws as f64 / others.len() as f64;
    let mut pairs = shuffled(others, seed);
    pairs.truncate(draws);
    pairs.sort_unstable();
    AuditDraws { pairs, propensity }
}

#[cfg(test)]
mod tests {
    use super::super::measure;
    use super::*;

    #[test]
    fn a_share_of_a_budget_leaves_something_for_the_rule() {
        assert_eq!(audit_labels(100, 0.15), 15);
        assert_eq!(audit_labels(2, 0.15), 1);
        assert_eq!(audit_labels(2, 0.99), 1);
        assert_eq!((audit_labels(1, 0.5), audit_labels(0, 0.5), audit_labels(100, 0.0)), (0, 0, 0));
        assert_eq!((audit_beside(85, 0.15), audit_beside(1, 0.15)), (15, 1));
        assert_eq!((audit_beside(0, 0.15), audit_beside(85, 0.0)), (0, 0));
    }

    #[test]
    fn every_pair_outside_the_selection_is_drawn_with_the_same_probability() {
        let scores = [
            ([0.0, 1.0, 2.0, 4.0], [-3.0, -1.0, -2.0, -9.0]),
            ([1.0, 5.0, 2.0, 3.0], [-1.0, -4.0, -2.0, -8.0]),
        ];
        let conflicts: Vec<_> = scores.iter().map(|(r, l)| measure(r, l).unwrap()).collect();
        let prompts: Vec<ScoredCompletions<'_>> = conflicts
            .iter()
            .zip(&scores)
            .map(|(conflict, (rewards, _))| ScoredCompletions { conflict, rewards, left_out: &[] })
            .collect();
        let selected: BTreeSet<Pair> = pairs(&prompts).into_iter().take(2).collect();
        let mut drawn = std::collections::BTreeMap::new();
        for seed in 0..4000 {
            let draws = audit_draws(&prompts, &selected, 3, seed);
            assert!((draws.propensity - 0.3).abs() < 1e-12);
            assert_eq!(draws.pairs.len(), 3);
            for pair in draws.pairs {
                assert!(!selected.contains(&pair));
                *drawn.entry(pair).or_insert(0_u32) += 1;
            }
        }
        // 1200 expected for each of ten pairs, with a standard deviation of 29.
        assert_eq!(drawn.len(), 10);
        assert!(drawn.values().all(|times| times.abs_diff(1200) < 120), "{drawn:?}");
        let all = audit_draws(&prompts, &selected, 99, 0);
        assert_eq!((all.pairs.len(), all.propensity), (10, 1.0));
        assert_eq!(audit_draws(&prompts, &selected, 0, 0), AuditDraws::default());
    }
}
