//! Runs of a sequence: parts that repeat one unit back to back.
//!
//! The method is the divide and conquer of Main and Lorentz: "An O(n log n) algorithm for finding all
//! repetitions in a string", Journal of Algorithms 5, 1984. The sequence is halved again and again. Two Z
//! arrays give, for every period, the extent of the run across the middle.

/// A part with a period: `text[i] == text[i + period]` for all i from `start` to `end − period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first position.
    pub start: usize,
    /// The position after the last.
    pub end: usize,
    /// The length of the unit; at most half of the run.
    pub period: usize,
}

/// A value that no sequence contains: characters are below.
const SEPARATOR: u32 = u32::MAX;

/// Calls `visit` with every maximal run of at least `shortest` ≥ 2 items, some of them more than once and
/// with multiples of their period. Items are below `u32::MAX`. The time is O(n log n) for every sequence.
pub(super) fn visit_runs(text: &[u32], shortest: usize, mut visit: impl FnMut(Run)) {
    let shortest = shortest.max(2);
    let mut search = Search::default();
    let mut parts = vec![(0, text.len())];
    while let Some((low, high)) = parts.pop() {
        if high - low < shortest {
            continue;
        }
        let middle = low.midpoint(high);
        search.across(&text[low..high], middle - low, |run| {
            if run.end - run.start >= shortest {
                visit(Run { start: run.start + low, end: run.end + low, ..run });
            }
        });
        parts.extend([(low, middle), (middle, high)]);
    }
}

/// Working memory of the search.
#[derive(Default)]
struct Search {
    joined: Vec<u32>,
    backward: Vec<usize>,
    forward: Vec<usize>,
}

impl Search {
    /// Visits the runs of `text` that touch the position `middle`.
    fn across(&mut self, text: &[u32], middle: usize, mut visit: impl FnMut(Run)) {
        let (left, right) = text.split_at(middle);
        self.joined.clear();
        self.joined.extend(left.iter().rev());
        self.joined.push(SEPARATOR);
        self.joined.extend(right.iter().rev());
        z_array(&self.joined, &mut self.backward);
        self.joined.clear();
        self.joined.extend(right);
        self.joined.push(SEPARATOR);
        self.joined.extend(left);
        z_array(&self.joined, &mut self.forward);

        let (n_left, n_right) = (left.len(), right.len());
        // How far the left part repeats itself `period` items back, from its end.
        let left_itself = |period: usize| if period < n_left { self.backward[period] } else { 0 };
        // How far the right part repeats itself `period` items on, from its begin.
        let right_itself = |period: usize| if period < n_right { self.forward[period] } else { 0 };
        for period in 1..=n_right {
            // A unit begins at the middle, and the next one lies to its right.
            let mut before = self.backward[n_left + 1 + n_right - period];
            if before == period {
                before += left_itself(period);
            }
            let after = right_itself(period);
            if before + after >= period {
                visit(Run { start: middle - before, end: middle + period + after, period });
            }
        }
        for period in 1..=n_left {
            // A unit ends at the middle, and the next one lies to its right.
            let before = left_itself(period);
            let mut after = self.forward[n_right + 1 + n_left - period];
            if after == period {
                after += right_itself(period);
            }
            if before + after >= period {
                visit(Run { start: middle - period - before, end: middle + after, period });
            }
        }
    }
}

/// Writes, for each position, how many items from there on agree with the begin of the sequence. The entry of
/// position 0 is 0. Linear time.
fn z_array(text: &[u32], z: &mut Vec<usize>) {
    z.clear();
    z.resize(text.len(), 0);
    let (mut begin, mut end) = (0, 0);
    for position in 1..text.len() {
        let mut length = if position < end { z[position - begin].min(end - position) } else { 0 };
        while text.get(position + length).is_some_and(|item| *item == text[length]) {
            length += 1;
        }
        z[position] = length;
        if position + length > end {
            (begin, end) = (position, position + length);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The definition: extends every period at every position.
    fn by_definition(text: &[u32]) -> BTreeSet<(usize, usize, usize)> {
        let mut runs = BTreeSet::new();
        for period in 1..=text.len() / 2 {
            let mut start = 0;
            while start + period < text.len() {
                let mut end = start + period;
                while end < text.len() && text[end] == text[end - period] {
                    end += 1;
                }
                if end - start >= 2 * period {
                    runs.insert((start, end, period));
                }
                start = (end - period).max(start) + 1;
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn every_maximal_run_is_visited_and_every_visited_part_has_its_period(
            text in prop::collection::vec(0..3_u32, 0..80),
        ) {
            let mut visited = BTreeSet::new();
            visit_runs(&text, 2, |run| {
                visited.insert((run.start, run.end, run.period));
            });
            for &(start, end, period) in &visited {
                prop_assert!(end - start >= 2 * period);
                prop_assert!((start + period..end).all(|at| text[at] == text[at - period]));
            }
            for run in by_definition(&text) {
                prop_assert!(visited.contains(&run), "{run:?} of {text:?}");
            }
        }
    }
}
