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
    /// A random other completion.
    Random,
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
/// opponents. At equal distances the lower index wins. `seed` determines the order of display and the random
/// opponents.
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
        let farthest = |scores: &[f64], sign: f64| {
            let distance = |other: usize| sign * (scores[completion] - scores[other]).abs();
            let farther = |best, other| if distance(other) > distance(best) { other } else { best };
            others.iter().copied().reduce(farther)
        };
        let other = match opponent {
            Opponent::Conflict => farthest(pacs, 1.0),
            Opponent::Margin => farthest(rewards, -1.0),
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
    use super::*;

    #[test]
    fn equal_completions_are_never_compared() {
        let (pacs, rewards) = ([2.0, 2.0, -4.0], [1.0, 1.0, 0.5]);
        for opponent in [Opponent::Conflict, Opponent::Margin, Opponent::Random] {
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
}
