//! Statistical rejection sampling optimisation (RSO, arXiv 2309.06657): keeps completions of a prompt and
//! makes preference pairs of them.
//!
//! Completions are identified by index: two completions with the same text are two completions.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

/// Completions that cannot be sampled from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RsoError {
    /// β must be a finite number above 0.
    #[error("beta = {0} is out of range: use a number above 0")]
    Beta(f64),
    /// A reward is not a finite number.
    #[error("rewards[{index}]: must be a finite number, found {value}")]
    NotFinite {
        /// The completion, from 0.
        index: usize,
        /// The value found.
        value: f64,
    },
}

/// Rule that makes pairs of the kept completions (section 3.3 of the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// One round of random pairs: K kept completions give K/2 pairs.
    #[default]
    FirstRound,
    /// The better completion of each pair enters the next round: K kept completions give K − 1 pairs.
    Tournament,
}

/// Two completions of a prompt, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RankedPair {
    /// The completion with the higher reward.
    pub chosen: usize,
    /// The other completion.
    pub rejected: usize,
}

/// Returns the probability of acceptance of each completion, shape `[N]`: exp((r − max r) / β), 1 for the
/// best.
///
/// # Errors
/// If β is not a finite number above 0, or a reward is not finite.
pub fn acceptance(rewards: &[f64], beta: f64) -> Result<Vec<f64>, RsoError> {
    check(rewards, beta)?;
    let max = rewards.iter().fold(f64::NEG_INFINITY, |max, &reward| max.max(reward));
    Ok(rewards.iter().map(|reward| ((reward - max) / beta).exp()).collect())
}

/// Keeps up to `wanted` completions of a prompt, by algorithm 1 of the paper. Returns their indices in the
/// order of acceptance.
///
/// A pass takes the candidates in turn and accepts each with the probability of [`acceptance`], relative to
/// the best remaining candidate. Accepted ones are no longer candidates. Passes end when `wanted` completions
/// are accepted or no candidate is left.
///
/// The result depends on the rewards, β and the seed alone. Every pass accepts at least the best candidate,
/// so there are at most N passes.
///
/// # Errors
/// As [`acceptance`].
pub fn accepted(rewards: &[f64], beta: f64, wanted: usize, seed: [u8; 32]) -> Result<Vec<usize>, RsoError> {
    check(rewards, beta)?;
    let mut rng = ChaCha8Rng::from_seed(seed);
    let mut candidates: Vec<usize> = (0..rewards.len()).collect();
    let mut kept = Vec::with_capacity(wanted.min(rewards.len()));
    while kept.len() < wanted && !candidates.is_empty() {
        let max = candidates.iter().fold(f64::NEG_INFINITY, |max, &index| max.max(rewards[index]));
        candidates.retain(|&index| {
            let accepts = kept.len() < wanted && uniform(&mut rng) < ((rewards[index] - max) / beta).exp();
            if accepts {
                kept.push(index);
            }
            !accepts
        });
    }
    Ok(kept)
}

/// Makes pairs of kept completions; the completion with the higher reward is the chosen one. `kept` are
/// indices into `rewards`, and the seed determines the pairing.
///
/// Completions of equal reward give no pair; in a tournament the first of them enters the next round. Of an
/// odd number, the last has no partner and enters the next round.
#[must_use]
pub fn ranked_pairs(kept: &[usize], rewards: &[f64], ranking: Ranking, seed: [u8; 32]) -> Vec<RankedPair> {
    let mut rng = ChaCha8Rng::from_seed(seed);
    // A separate stream, and a shuffle: the order of acceptance favours high rewards.
    rng.set_stream(1);
    let mut remaining: Vec<usize> = kept.iter().copied().filter(|&index| index < rewards.len()).collect();
    let mut pairs = Vec::new();
    while remaining.len() >= 2 {
        shuffle(&mut remaining, &mut rng);
        let mut winners = Vec::with_capacity(remaining.len().div_ceil(2));
        for pair in remaining.chunks(2) {
            let &[first, second] = pair else {
                winners.extend_from_slice(pair);
                continue;
            };
            let second_wins = rewards[second] > rewards[first];
            let (chosen, rejected) = if second_wins { (second, first) } else { (first, second) };
            winners.push(chosen);
            if rewards[chosen] > rewards[rejected] {
                pairs.push(RankedPair { chosen, rejected });
            }
        }
        match ranking {
            Ranking::FirstRound => break,
            Ranking::Tournament => remaining = winners,
        }
    }
    pairs
}

fn check(rewards: &[f64], beta: f64) -> Result<(), RsoError> {
    if !(beta > 0.0 && beta.is_finite()) {
        return Err(RsoError::Beta(beta));
    }
    match rewards.iter().enumerate().find(|(_, reward)| !reward.is_finite()) {
        Some((index, &value)) => Err(RsoError::NotFinite { index, value }),
        None => Ok(()),
    }
}

/// Draws uniformly from [0, 1): the probability 1 of the best candidate must exceed every draw.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Shuffles by the method of Fisher and Yates. The bias of the remainder is below 2⁻⁵⁰ for any group that
/// fits in memory.
fn shuffle(items: &mut [usize], rng: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        let among = last as u64 + 1;
        let other = usize::try_from(rng.next_u64() % among).unwrap_or(last);
        items.swap(last, other);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seed(number: u32) -> [u8; 32] {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        seed
    }

    #[test]
    fn acceptance_gives_the_worked_numbers() {
        let found = acceptance(&[0.0, 1.0, 2.0], 0.5).unwrap();
        for (found, expected) in found.iter().zip([0.018_316, 0.135_335, 1.0]) {
            assert!((found - expected).abs() <= 5.1e-7, "{found}, expected {expected}");
        }
    }

    #[test]
    fn the_first_kept_completion_follows_the_acceptance_probabilities() {
        // For rewards 0, 1, 2 the first pass keeps 0 with probability .018316. If not, it keeps 1 with
        // .135335, and if not, 2.
        let runs = 20_000_u32;
        let mut first = [0_u32; 3];
        for run in 0..runs {
            first[accepted(&[0.0, 1.0, 2.0], 0.5, 1, seed(run)).unwrap()[0]] += 1;
        }
        let shares = first.map(|count| f64::from(count) / f64::from(runs));
        let expected = [0.018_316, (1.0 - 0.018_316) * 0.135_335, (1.0 - 0.018_316) * (1.0 - 0.135_335)];
        for (found, expected) in shares.iter().zip(expected) {
            assert!((found - expected).abs() < 0.01, "{shares:?}, expected {expected}");
        }
    }

    #[test]
    fn a_small_beta_keeps_the_best_and_a_large_beta_any_completion() {
        let rewards = [0.3, 0.9, 0.1, 0.8];
        assert_eq!(accepted(&rewards, 1e-6, 2, seed(1)).unwrap(), [1, 3]);
        assert_eq!(accepted(&rewards, 1e9, 2, seed(1)).unwrap(), [0, 1]);
    }

    #[test]
    fn completions_with_equal_texts_are_distinct() {
        assert_eq!(accepted(&[1.0, 1.0, 1.0], 0.5, 3, seed(0)).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn a_tournament_of_n_completions_gives_n_minus_one_pairs() {
        let rewards: Vec<f64> = (0..8).map(f64::from).collect();
        let kept: Vec<usize> = (0..8).collect();
        assert_eq!(ranked_pairs(&kept, &rewards, Ranking::FirstRound, seed(3)).len(), 4);
        let tournament = ranked_pairs(&kept, &rewards, Ranking::Tournament, seed(3));
        assert_eq!(tournament.len(), 7);
        assert_eq!(tournament.last().unwrap().chosen, 7, "the best wins the last round");
    }

    #[test]
    fn equal_rewards_give_no_pair() {
        assert_eq!(ranked_pairs(&[0, 1, 2, 3], &[1.0; 4], Ranking::Tournament, seed(0)), []);
        assert_eq!(ranked_pairs(&[0], &[1.0], Ranking::FirstRound, seed(0)), []);
    }

    #[test]
    fn errors_name_the_invalid_beta_or_reward() {
        let message = |rewards: &[f64], beta| accepted(rewards, beta, 1, seed(0)).unwrap_err().to_string();
        assert_eq!(message(&[1.0], 0.0), "beta = 0 is out of range: use a number above 0");
        assert_eq!(message(&[1.0, f64::NAN], 0.5), "rewards[1]: must be a finite number, found NaN");
        assert!(acceptance(&[f64::INFINITY], 0.5).is_err());
    }

    fn rewards() -> impl Strategy<Value = Vec<f64>> {
        // Few distinct values, so that many tie.
        prop::collection::vec(prop_oneof![-5.0..5.0_f64, (-2..3_i8).prop_map(f64::from)], 0..24)
    }

    proptest! {
        #[test]
        fn the_wanted_number_of_distinct_completions_is_kept(
            rewards in rewards(), beta in 0.01..10.0_f64, wanted in 0_usize..30, number: u32,
        ) {
            let kept = accepted(&rewards, beta, wanted, seed(number)).unwrap();
            prop_assert_eq!(kept.len(), wanted.min(rewards.len()));
            let distinct: std::collections::BTreeSet<_> = kept.iter().collect();
            prop_assert_eq!(distinct.len(), kept.len());
            prop_assert!(kept.iter().all(|&index| index < rewards.len()));
            prop_assert_eq!(&kept, &accepted(&rewards, beta, wanted, seed(number)).unwrap());
        }

        #[test]
        fn an_offset_of_all_rewards_keeps_the_same_completions(
            rewards in prop::collection::vec((-8..8_i8).prop_map(f64::from), 1..24), number: u32,
        ) {
            let moved: Vec<f64> = rewards.iter().map(|reward| reward + 1024.0).collect();
            prop_assert_eq!(
                accepted(&moved, 0.5, 4, seed(number)).unwrap(),
                accepted(&rewards, 0.5, 4, seed(number)).unwrap()
            );
        }

        #[test]
        fn every_pair_prefers_the_higher_reward(rewards in rewards(), number: u32) {
            let kept: Vec<usize> = (0..rewards.len()).collect();
            for ranking in [Ranking::FirstRound, Ranking::Tournament] {
                let pairs = ranked_pairs(&kept, &rewards, ranking, seed(number));
                let most = match ranking {
                    Ranking::FirstRound => rewards.len() / 2,
                    Ranking::Tournament => rewards.len().saturating_sub(1),
                };
                prop_assert!(pairs.len() <= most);
                prop_assert!(pairs.iter().all(|pair| rewards[pair.chosen] > rewards[pair.rejected]));
            }
        }

        #[test]
        fn acceptance_is_a_probability_and_keeps_the_order_of_the_rewards(
            rewards in rewards(), beta in 0.01..10.0_f64,
        ) {
            let found = acceptance(&rewards, beta).unwrap();
            prop_assert!(found.iter().all(|p| (0.0..=1.0).contains(p)));
            for (a, p) in rewards.iter().zip(&found) {
                for (b, q) in rewards.iter().zip(&found) {
                    prop_assert!(a < b || p >= q);
                }
            }
        }
    }
}
