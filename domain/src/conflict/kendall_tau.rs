//! Kendall's tau-b between two scores of the same completions, in O(N log N).
//!
//! Knight's algorithm sorts by one score, then counts the swaps of a merge sort by the other. Each swap is a
//! discordant pair. Ties count as in `scipy.stats.kendalltau` (variant b).

/// Agreement of two rankings of the same N completions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KendallTau {
    /// Tau-b, in [−1, 1]; `None` if either score ties every pair, as it always does for N < 2.
    pub tau: Option<f64>,
    /// Pairs with the same order in both.
    pub concordant: u64,
    /// Pairs with opposite orders.
    pub discordant: u64,
    /// Pairs tied in either.
    pub tied: u64,
}

impl KendallTau {
    /// The Kendall-tau distance (1 − tau-b)/2, in [0, 1]; 1 for opposite rankings.
    #[must_use]
    pub fn distance(&self) -> Option<f64> {
        self.tau.map(|tau| (1.0 - tau) / 2.0)
    }
}

/// Returns tau-b and the pair counts of two scores of the same items: `a[i]` and `b[i]` belong to item i.
///
/// The end of the longer list is ignored. −0 ties with 0, and a NaN ranks beyond the infinities.
///
/// ```
/// use dissent_domain::conflict::kendall_tau;
///
/// let (rewards, logprobs) = ([1.0, 1.0, 2.0, 3.0], [-1.0, -2.0, -2.0, -4.0]);
/// let agreement = kendall_tau(&rewards, &logprobs);
/// assert_eq!((agreement.concordant, agreement.discordant, agreement.tied), (0, 4, 2));
/// assert_eq!(agreement.tau, Some(-0.8));
/// assert_eq!(agreement.distance(), Some(0.9));
/// ```
#[must_use]
pub fn kendall_tau(a: &[f64], b: &[f64]) -> KendallTau {
    RankScratch::default().kendall_tau(a, b)
}

/// Working memory, reused for each prompt.
#[derive(Debug, Default)]
pub(super) struct RankScratch {
    pairs: Vec<(f64, f64)>,
    seconds: Vec<f64>,
    merged: Vec<f64>,
}

impl RankScratch {
    pub(super) fn kendall_tau(&mut self, a: &[f64], b: &[f64]) -> KendallTau {
        self.pairs.clear();
        // Adding 0 turns −0 into 0; `total_cmp` ranks them differently.
        self.pairs.extend(a.iter().zip(b).map(|(a, b)| (a + 0.0, b + 0.0)));
        self.pairs.sort_unstable_by(|x, y| x.0.total_cmp(&y.0).then(x.1.total_cmp(&y.1)));
        let tied_a = tied_pairs(&self.pairs, |x, y| same(x.0, y.0));
        let tied_both = tied_pairs(&self.pairs, |x, y| same(x.0, y.0) && same(x.1, y.1));
        self.seconds.clear();
        self.seconds.extend(self.pairs.iter().map(|pair| pair.1));
        let discordant = sort_counting_swaps(&mut self.seconds, &mut self.merged);
        let tied_b = tied_pairs(&self.seconds, |x, y| same(*x, *y));

        let all = pairs_among(self.pairs.len() as u64);
        let tied = tied_a + tied_b - tied_both;
        let concordant = all - tied - discordant;
        KendallTau {
            tau: tau_b(concordant, discordant, all - tied_a, all - tied_b),
            concordant,
            discordant,
            tied,
        }
    }
}

/// Computes tau-b. `untied_a` and `untied_b` count the pairs that each score does not tie.
fn tau_b(concordant: u64, discordant: u64, untied_a: u64, untied_b: u64) -> Option<f64> {
    if untied_a == 0 || untied_b == 0 {
        return None;
    }
    // The root of the product, not the product of roots: a perfect ranking gives exactly ±1.
    let most = (untied_a as f64 * untied_b as f64).sqrt();
    Some(((concordant as f64 - discordant as f64) / most).clamp(-1.0, 1.0))
}

fn pairs_among(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

fn same(x: f64, y: f64) -> bool {
    x.total_cmp(&y).is_eq()
}

/// Counts the pairs of equal items in a sorted slice.
fn tied_pairs<T>(sorted: &[T], equal: impl Fn(&T, &T) -> bool) -> u64 {
    sorted.chunk_by(equal).map(|run| pairs_among(run.len() as u64)).sum()
}

/// Sorts ascending, bottom up. Returns the number of pairs that were in strictly descending order.
fn sort_counting_swaps(values: &mut Vec<f64>, merged: &mut Vec<f64>) -> u64 {
    let mut swaps = 0;
    let mut width = 1;
    while width < values.len() {
        merged.clear();
        for run in values.chunks(2 * width) {
            let (left, right) = run.split_at(width.min(run.len()));
            swaps += merge_counting_swaps(left, right, merged);
        }
        std::mem::swap(values, merged);
        width *= 2;
    }
    swaps
}

fn merge_counting_swaps(mut left: &[f64], mut right: &[f64], merged: &mut Vec<f64>) -> u64 {
    let mut swaps = 0;
    while let ([first_left, rest_left @ ..], [first_right, rest_right @ ..]) = (left, right) {
        if first_left.total_cmp(first_right).is_le() {
            merged.push(*first_left);
            left = rest_left;
        } else {
            // It passes all remaining items of the left half.
            swaps += left.len() as u64;
            merged.push(*first_right);
            right = rest_right;
        }
    }
    merged.extend_from_slice(left);
    merged.extend_from_slice(right);
    swaps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: compares every pair.
    fn by_definition(a: &[f64], b: &[f64]) -> KendallTau {
        let (mut concordant, mut discordant, mut tied_a, mut tied_b, mut tied) = (0, 0, 0, 0, 0);
        for i in 0..a.len() {
            for j in 0..i {
                let (in_a, in_b) = (a[i].total_cmp(&a[j]), b[i].total_cmp(&b[j]));
                tied_a += u64::from(in_a.is_eq());
                tied_b += u64::from(in_b.is_eq());
                tied += u64::from(in_a.is_eq() || in_b.is_eq());
                concordant += u64::from(in_a == in_b && in_a.is_ne());
                discordant += u64::from(in_a == in_b.reverse() && in_a.is_ne());
            }
        }
        let all = concordant + discordant + tied;
        let most = ((all - tied_a) as f64 * (all - tied_b) as f64).sqrt();
        let tau = (most > 0.0).then(|| (concordant as f64 - discordant as f64) / most);
        KendallTau { tau, concordant, discordant, tied }
    }

    #[test]
    fn negative_zero_ties_with_zero() {
        let found = kendall_tau(&[0.0, -0.0, 1.0], &[1.0, 2.0, 3.0]);
        assert_eq!((found.concordant, found.discordant, found.tied), (2, 0, 1));
    }

    #[test]
    fn fewer_than_two_items_have_no_tau() {
        for scores in [&[][..], &[1.0]] {
            let found = kendall_tau(scores, scores);
            assert_eq!((found.tau, found.concordant, found.discordant, found.tied), (None, 0, 0, 0));
        }
    }

    #[test]
    fn not_a_number_does_not_panic() {
        assert_eq!(kendall_tau(&[f64::NAN, 1.0, 2.0], &[1.0, f64::NAN, 0.0]).tied, 0);
    }

    proptest! {
        #[test]
        fn every_pair_is_counted_as_by_definition(
            levels in 1..40_u8,
            pairs in prop::collection::vec((any::<u8>(), any::<u8>()), 0..150),
        ) {
            let level = |value: u8| f64::from(value % levels);
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().map(|(a, b)| (level(a), level(b))).unzip();
            prop_assert_eq!(kendall_tau(&a, &b), by_definition(&a, &b));
        }

        #[test]
        fn negating_one_score_negates_tau(pairs in prop::collection::vec((-9..9_i8, -9..9_i8), 2..60)) {
            let (a, b): (Vec<f64>, Vec<f64>) =
                pairs.into_iter().map(|(a, b)| (f64::from(a), f64::from(b))).unzip();
            let negated: Vec<f64> = b.iter().map(|b| -b).collect();
            let (found, mirrored) = (kendall_tau(&a, &b), kendall_tau(&a, &negated));
            prop_assert_eq!(mirrored.tau, found.tau.map(|tau| -tau));
            prop_assert_eq!((mirrored.concordant, mirrored.discordant), (found.discordant, found.concordant));
        }
    }
}
