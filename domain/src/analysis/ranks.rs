//! Ranks. Equal values share the mean of their ranks.

use std::cmp::Ordering;

/// Returns the rank of each value, from 1 for the smallest, like `scipy.stats.rankdata`.
#[must_use]
pub fn midranks(values: &[f64]) -> Vec<f64> {
    let order = ascending(values);
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for group in order.chunk_by(|&a, &b| compare(values[a], values[b]).is_eq()) {
        // The mean of the ranks start + 1 ..= start + length.
        let rank = start as f64 + (group.len() as f64 + 1.0) / 2.0;
        group.iter().for_each(|&index| ranks[index] = rank);
        start += group.len();
    }
    ranks
}

/// Divides values by rank into `count` ≥ 1 strata of about equal size. Returns the stratum of each value,
/// from 0 for the smallest. Equal values share a stratum.
#[must_use]
pub fn strata(values: &[f64], count: u32) -> Vec<u32> {
    let n = values.len().max(1) as f64;
    let last = count.max(1) - 1;
    midranks(values)
        .into_iter()
        .map(|rank| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of ranks lies between 0 and 1"
            )]
            let stratum = ((rank - 0.5) / n * f64::from(count)) as u32;
            stratum.min(last)
        })
        .collect()
}

/// Returns the indices of the values in ascending order; the sort is stable.
pub(super) fn ascending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| compare(values[a], values[b]));
    order
}

/// Compares in a total order in which 0 and −0 are equal: adding 0 turns −0 into 0.
pub(super) fn compare(a: f64, b: f64) -> Ordering {
    (a + 0.0).total_cmp(&(b + 0.0))
}
