//! The feedback step: comparisons, judgements and their majority.
//!
//! A selected completion is compared with another completion of its prompt. Judgements come from several
//! annotators, in any order. An annotator judges a comparison once; repeated judgements have no effect.

mod agreement;

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::conflict::{Pair, tells_apart};

pub use agreement::{Agreement, PairAgreement, cohen_kappa, pair_agreements};

/// The annotator of the judgements that the oracle makes. Ids of events are derived from it.
pub const ORACLE_ANNOTATOR: &str = "oracle";

/// The better of two completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The completion shown first.
    First,
    /// The completion shown second.
    Second,
    /// Neither.
    Tie,
}

/// Rule that chooses the opponent of a selected completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opponent {
    /// The completion of the same prompt with the farthest PACS: the pair on which policy and proxy differ
    /// most.
    #[default]
    Conflict,
    /// The completion with the nearest reward.
    Margin,
    /// The completion with the farthest PACS among the nearer half by reward: conflict between completions
    /// that the proxy rates about equally. An odd number of other completions is halved upwards.
    Matched,
    /// A random other completion.
    Random,
}

impl Opponent {
    /// Every rule, in the order of help texts.
    pub const ALL: [Self; 4] = [Self::Conflict, Self::Margin, Self::Matched, Self::Random];

    /// The name in configuration files, plans and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Margin => "margin",
            Self::Matched => "matched",
            Self::Random => "random",
        }
    }
}

/// Two completions of a prompt, in the order of display.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comparison {
    /// Index of the completion that is shown first.
    pub first: usize,
    /// Index of the completion that is shown second.
    pub second: usize,
}

impl Comparison {
    /// Returns the pair of a prompt, by ascending completion.
    #[must_use]
    pub(crate) fn pair(&self, prompt: usize) -> Pair {
        Pair { prompt, first: self.first.min(self.second), second: self.first.max(self.second) }
    }
}

/// Returns the comparisons of one prompt: each selected completion with an opponent, no pair twice.
/// Completions with the same reward and the same PACS are never compared, and those in `left_out` are no
/// opponents. At equal distances, of reward or of PACS, the lower index wins. `seed` determines the order of
/// display and the random opponents.
#[must_use]
pub fn comparisons(
    opponent: Opponent,
    selected: &[usize],
    pacs: &[f64],
    rewards: &[f64],
    left_out: &[bool],
    seed: u64,
) -> Vec<Comparison> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut found: Vec<Comparison> = Vec::with_capacity(selected.len());
    let is_kept = |other: usize| !left_out.get(other).copied().unwrap_or(false);
    for &completion in selected {
        let others: Vec<usize> = (0..pacs.len())
            .filter(|&other| is_kept(other) && tells_apart(pacs, rewards, completion, other))
            .collect();
        let other = match opponent {
            Opponent::Conflict => farthest(&others, completion, pacs, 1.0),
            Opponent::Margin => farthest(&others, completion, rewards, -1.0),
            Opponent::Matched => farthest(&nearer_half(others, completion, rewards), completion, pacs, 1.0),
            Opponent::Random => random_opponent(&others, &mut rng),
        };
        let Some(other) = other else { continue };
        let known = |pair: &Comparison| {
            (pair.first, pair.second) == (completion, other)
                || (pair.first, pair.second) == (other, completion)
        };
        if !found.iter().any(known) {
            let (first, second) =
                if rng.next_u32() & 1 == 0 { (completion, other) } else { (other, completion) };
            found.push(Comparison { first, second });
        }
    }
    found
}

/// Returns the first of `others` with the largest distance from `completion`, or with the smallest if `sign`
/// is -1. `scores` has shape `[N]`.
fn farthest(others: &[usize], completion: usize, scores: &[f64], sign: f64) -> Option<usize> {
    let distance = |other: usize| sign * (scores[completion] - scores[other]).abs();
    let farther = |best, other| if distance(other) > distance(best) { other } else { best };
    others.iter().copied().reduce(farther)
}

/// Returns the nearer half of `others` by reward, rounded up, in ascending order. At equal distances the
/// lower index is nearer.
fn nearer_half(mut others: Vec<usize>, completion: usize, rewards: &[f64]) -> Vec<usize> {
    let distance = |other: usize| (rewards[completion] - rewards[other]).abs();
    others.sort_by(|&one, &other| distance(one).total_cmp(&distance(other)).then(one.cmp(&other)));
    others.truncate(others.len().div_ceil(2));
    others.sort_unstable();
    others
}

/// Returns the comparisons of pairs that a rule selected. `seed` determines the order of display.
#[must_use]
pub fn in_display_order(pairs: &[[usize; 2]], seed: u64) -> Vec<Comparison> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let display = |&[one, other]: &[usize; 2]| {
        let (first, second) = if rng.next_u32() & 1 == 0 { (one, other) } else { (other, one) };
        Comparison { first, second }
    };
    pairs.iter().map(display).collect()
}

/// Returns a random place in 0..`places`, from `seed`; 0 without places.
pub(crate) fn random_place(places: usize, seed: u64) -> usize {
    let places: Vec<usize> = (0..places).collect();
    random_opponent(&places, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap_or(0)
}

fn random_opponent(others: &[usize], rng: &mut ChaCha8Rng) -> Option<usize> {
    let place = rng.next_u64().checked_rem(others.len() as u64)?;
    others.get(usize::try_from(place).ok()?).copied()
}

/// The judgements of one comparison, by annotator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Judgements(BTreeMap<String, Judgement>);

/// One annotator's judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The better completion.
    pub verdict: Verdict,
    /// Whether each completion, `[first, second]`, is unsafe; `None` if safety was not judged.
    pub is_unsafe: Option<[bool; 2]>,
}

impl Judgements {
    /// Number of judgements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no judgements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The judgement of an annotator.
    #[must_use]
    pub fn of(&self, annotator: &str) -> Option<&Judgement> {
        self.0.get(annotator)
    }

    /// Every annotator with the judgement, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Judgement)> {
        self.0.iter().map(|(annotator, judgement)| (annotator.as_str(), judgement))
    }

    /// Adds a judgement. Later judgements of the same annotator have no effect.
    pub fn insert(&mut self, annotator: &str, judgement: Judgement) {
        self.0.entry(annotator.to_owned()).or_insert(judgement);
    }

    /// The verdict of the majority: a tie if equal numbers prefer each completion. `None` without judgements.
    #[must_use]
    pub fn majority(&self) -> Option<Verdict> {
        let votes = |verdict| self.0.values().filter(|judgement| judgement.verdict == verdict).count();
        if self.0.is_empty() {
            return None;
        }
        Some(match votes(Verdict::First).cmp(&votes(Verdict::Second)) {
            std::cmp::Ordering::Greater => Verdict::First,
            std::cmp::Ordering::Less => Verdict::Second,
            std::cmp::Ordering::Equal => Verdict::Tie,
        })
    }

    /// Whether a majority finds each completion unsafe; `None` if no annotator judged safety.
    #[must_use]
    pub fn is_unsafe(&self) -> Option<[bool; 2]> {
        let judged: Vec<[bool; 2]> = self.0.values().filter_map(|judgement| judgement.is_unsafe).collect();
        let unsafe_at =
            |place: usize| 2 * judged.iter().filter(|is_unsafe| is_unsafe[place]).count() > judged.len();
        (!judged.is_empty()).then(|| [unsafe_at(0), unsafe_at(1)])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The opponent of one completion.
    fn opponent_of(opponent: Opponent, completion: usize, pacs: &[f64], rewards: &[f64]) -> Option<usize> {
        let found = comparisons(opponent, &[completion], pacs, rewards, &[], 0);
        found.first().map(|pair| if pair.first == completion { pair.second } else { pair.first })
    }

    #[test]
    fn equal_completions_are_never_compared() {
        let (pacs, rewards) = ([2.0, 2.0, -4.0], [1.0, 1.0, 0.5]);
        for opponent in Opponent::ALL {
            for seed in 0..20 {
                let found = comparisons(opponent, &[0, 1], &pacs, &rewards, &[], seed);
                assert!(
                    found.iter().all(|pair| pair.first == 2 || pair.second == 2),
                    "{opponent:?}: {found:?}"
                );
            }
        }
        assert_eq!(comparisons(Opponent::Margin, &[0], &[1.0; 2], &[1.0; 2], &[], 0), []);
    }

    #[test]
    fn the_name_of_an_opponent_is_its_name_on_the_wire() {
        for opponent in Opponent::ALL {
            assert_eq!(serde_json::to_value(opponent).unwrap(), opponent.name());
        }
    }

    #[test]
    fn a_matched_opponent_conflicts_most_among_the_nearer_half_by_reward() {
        let rewards = [0.0, 5.0, 0.1, -0.2, 0.3, -6.0];
        let pacs = [1.0, -9.0, 0.9, -1.0, 2.0, 9.0];
        // The nearer half of five others is 2, 3 and 4; their PACS are 0.1, 2 and 1 away.
        assert_eq!(opponent_of(Opponent::Matched, 0, &pacs, &rewards), Some(3));
        assert_eq!(opponent_of(Opponent::Conflict, 0, &pacs, &rewards), Some(1));
        assert_eq!(opponent_of(Opponent::Margin, 0, &pacs, &rewards), Some(2));
    }

    #[test]
    fn a_matched_opponent_is_not_left_out() {
        let (rewards, pacs) = ([0.0, 0.1, 0.2, 3.0], [0.0, 5.0, 1.0, 9.0]);
        let found = comparisons(Opponent::Matched, &[0], &pacs, &rewards, &[false, true, false, false], 0);
        // Two others remain, so the nearer half is one.
        assert_eq!((found[0].first.min(found[0].second), found[0].first.max(found[0].second)), (0, 2));
    }

    #[test]
    fn the_lower_index_wins_at_equal_distances() {
        // The nearer half of two others is one: the lower index. Of three it is two, of equal PACS.
        assert_eq!(opponent_of(Opponent::Matched, 0, &[0.0, 1.0, 2.0], &[0.0, 1.0, -1.0]), Some(1));
        assert_eq!(
            opponent_of(Opponent::Matched, 0, &[0.0, 1.0, -1.0, 5.0], &[0.0, 1.0, -1.0, 9.0]),
            Some(1)
        );
    }

    proptest! {
        #[test]
        fn a_matched_opponent_lies_between_margin_and_conflict(
            scores in prop::collection::vec((-3.0..3.0_f64, -3.0..3.0_f64), 2..9), seed in 0..9_u64,
        ) {
            let (pacs, rewards): (Vec<f64>, Vec<f64>) = scores.iter().copied().unzip();
            let selected: Vec<usize> = (0..pacs.len()).collect();
            for &completion in &selected {
                let other = |opponent| opponent_of(opponent, completion, &pacs, &rewards).unwrap();
                let margin = |other: usize| (rewards[completion] - rewards[other]).abs();
                let gap = |other: usize| (pacs[completion] - pacs[other]).abs();
                let matched = other(Opponent::Matched);
                let nearer = (0..pacs.len()).filter(|&at| at != completion && margin(at) < margin(matched));
                prop_assert!(nearer.count() < (pacs.len() - 1).div_ceil(2));
                prop_assert!(gap(matched) <= gap(other(Opponent::Conflict)));
                prop_assert!(gap(matched) >= gap(other(Opponent::Margin)));
                prop_assert!(margin(matched) >= margin(other(Opponent::Margin)));
            }
            let found = comparisons(Opponent::Matched, &selected, &pacs, &rewards, &[], seed);
            prop_assert_eq!(&found, &comparisons(Opponent::Matched, &selected, &pacs, &rewards, &[], seed));
            let mut pairs: Vec<[usize; 2]> =
                found.iter().map(|pair| [pair.first.min(pair.second), pair.first.max(pair.second)]).collect();
            pairs.sort_unstable();
            pairs.dedup();
            prop_assert_eq!(pairs.len(), found.len());
        }
    }
}
