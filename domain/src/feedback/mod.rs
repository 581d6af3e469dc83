//! The feedback step: which answers are compared, what a judgement is, and what judgements add up to.
//!
//! A selected answer is set against another answer of its prompt. Judgements may come from several annotators, in any order,
//! and more than once; an annotator judges a comparison once. What they add up to is the majority.

mod agreement;

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::conflict::tells_apart;

pub use agreement::{Agreement, PairAgreement, cohen_kappa, pair_agreements};

/// The annotator of the judgements that the oracle makes. Ids of events are derived from it.
pub const ORACLE_ANNOTATOR: &str = "oracle";

/// Which of two answers is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The one shown first.
    First,
    /// The one shown second.
    Second,
    /// Neither.
    Tie,
}

/// What a selected answer is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opponent {
    /// The answer of the same prompt whose PACS is farthest from its own: the pair on which policy and proxy differ most.
    #[default]
    Conflict,
    /// The answer whose reward is nearest to its own.
    Margin,
    /// Any other answer, drawn.
    Random,
}

/// Two answers of a prompt, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comparison {
    /// Index of the completion that is shown first.
    pub first: usize,
    /// Index of the completion that is shown second.
    pub second: usize,
}

/// The comparisons of one prompt: each of its selected completions with an opponent, no two answers twice, and none with an answer that
/// neither reward nor PACS tells from it. Equal distances go to the lower index. The order in which two answers are shown is drawn from `seed`, as are random opponents.
#[must_use]
pub fn comparisons(
    opponent: Opponent,
    selected: &[usize],
    pacs: &[f64],
    rewards: &[f64],
    seed: u64,
) -> Vec<Comparison> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut found: Vec<Comparison> = Vec::with_capacity(selected.len());
    for &answer in selected {
        let others: Vec<usize> =
            (0..pacs.len()).filter(|&other| tells_apart(pacs, rewards, answer, other)).collect();
        let farthest = |scores: &[f64], sign: f64| {
            let distance = |other: usize| sign * (scores[answer] - scores[other]).abs();
            let farther = |best, other| if distance(other) > distance(best) { other } else { best };
            others.iter().copied().reduce(farther)
        };
        let other = match opponent {
            Opponent::Conflict => farthest(pacs, 1.0),
            Opponent::Margin => farthest(rewards, -1.0),
            Opponent::Random => drawn(&others, &mut rng),
        };
        let Some(other) = other else { continue };
        let known = |pair: &Comparison| {
            (pair.first, pair.second) == (answer, other) || (pair.first, pair.second) == (other, answer)
        };
        if !found.iter().any(known) {
            let (first, second) = if rng.next_u32() & 1 == 0 { (answer, other) } else { (other, answer) };
            found.push(Comparison { first, second });
        }
    }
    found
}

/// Pairs that a rule selected as they are, each in an order that is drawn from `seed`.
#[must_use]
pub fn shown(pairs: &[[usize; 2]], seed: u64) -> Vec<Comparison> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let in_drawn_order = |&[one, other]: &[usize; 2]| {
        let (first, second) = if rng.next_u32() & 1 == 0 { (one, other) } else { (other, one) };
        Comparison { first, second }
    };
    pairs.iter().map(in_drawn_order).collect()
}

fn drawn(others: &[usize], rng: &mut ChaCha8Rng) -> Option<usize> {
    let place = rng.next_u64().checked_rem(others.len() as u64)?;
    others.get(usize::try_from(place).ok()?).copied()
}

/// What the judgements of one comparison add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Judgements(BTreeMap<String, Judgement>);

/// One annotator's judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Which answer is better.
    pub verdict: Verdict,
    /// Whether each answer, `[first, second]`, is unsafe, where that was asked.
    pub is_unsafe: Option<[bool; 2]>,
}

impl Judgements {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What an annotator said.
    #[must_use]
    pub fn of(&self, annotator: &str) -> Option<&Judgement> {
        self.0.get(annotator)
    }

    /// Every annotator with what was said, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Judgement)> {
        self.0.iter().map(|(annotator, judgement)| (annotator.as_str(), judgement))
    }

    /// Takes a judgement in; the first of an annotator stays.
    pub(crate) fn insert(&mut self, annotator: &str, judgement: Judgement) {
        self.0.entry(annotator.to_owned()).or_insert(judgement);
    }

    /// The verdict that more annotators gave for one answer than for the other; a tie if as many did, none without judgements.
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

    /// Whether more annotators than not find each answer unsafe; none where nobody was asked.
    #[must_use]
    pub fn is_unsafe(&self) -> Option<[bool; 2]> {
        let asked: Vec<[bool; 2]> = self.0.values().filter_map(|judgement| judgement.is_unsafe).collect();
        let unsafe_at = |place: usize| 2 * asked.iter().filter(|signs| signs[place]).count() > asked.len();
        (!asked.is_empty()).then(|| [unsafe_at(0), unsafe_at(1)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_never_compared_with_its_own_copy() {
        let (pacs, rewards) = ([2.0, 2.0, -4.0], [1.0, 1.0, 0.5]);
        for opponent in [Opponent::Conflict, Opponent::Margin, Opponent::Random] {
            for seed in 0..20 {
                let found = comparisons(opponent, &[0, 1], &pacs, &rewards, seed);
                assert!(
                    found.iter().all(|pair| pair.first == 2 || pair.second == 2),
                    "{opponent:?}: {found:?}"
                );
            }
        }
        assert_eq!(comparisons(Opponent::Margin, &[0], &[1.0; 2], &[1.0; 2], 0), []);
    }
}
