//! Precision and recall of a rule within a budget.

use serde::{Deserialize, Serialize};

use super::ranks::{ascending, compare};

/// Precision and recall among the items with the highest scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AtBudget {
    /// Number of items within the budget.
    pub budget: usize,
    /// Share of them that are positive, in [0, 1].
    pub precision: f64,
    /// Share of all positives that are among them, in [0, 1].
    pub recall: f64,
}

/// Returns precision and recall among the `budget` items with the highest scores, for each budget.
///
/// Where scores at the end of a budget are equal, the figures are the mean over random draws of these items.
/// The order of the items has no effect. A budget of 0 or above the number of items has no entry. Without a
/// positive the list is empty.
#[must_use]
pub fn at_budgets(scores: &[f64], positive: &[bool], budgets: &[usize]) -> Vec<AtBudget> {
    let found = expected_found(scores, positive);
    let Some(&all) = found.last().filter(|all| **all > 0.0) else { return Vec::new() };
    let entry = |&budget: &usize| {
        let found = *found.get(budget.checked_sub(1)?)?;
        Some(AtBudget { budget, precision: found / budget as f64, recall: found / all })
    };
    budgets.iter().filter_map(entry).collect()
}

/// Returns the mean precision over all budgets from 1 to the number of items. It is high where the positives
/// have the highest scores. Its maximum depends on the share of positives, so compare rules on the same items
/// only. `None` without items.
#[must_use]
pub fn mean_precision(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let found = expected_found(scores, positive);
    let sum: f64 = found.iter().zip(1_u64..).map(|(found, budget)| found / budget as f64).sum();
    (!found.is_empty()).then(|| sum / found.len() as f64)
}

/// Returns the number of positives among the first 1, 2, … items by descending score. Items with equal scores
/// count with their mean over all orders.
fn expected_found(scores: &[f64], positive: &[bool]) -> Vec<f64> {
    let of = scores.len().min(positive.len());
    let mut order = ascending(&scores[..of]);
    order.reverse();
    let mut found = Vec::with_capacity(of);
    let mut before = 0.0;
    for tied in order.chunk_by(|&a, &b| compare(scores[a], scores[b]).is_eq()) {
        let positives = tied.iter().filter(|&&index| positive[index]).count() as f64;
        let share = positives / tied.len() as f64;
        found.extend((1..=tied.len()).map(|taken| before + share * taken as f64));
        before += positives;
    }
    found
}
