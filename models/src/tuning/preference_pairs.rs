//! Preference pairs from a policy's own scored completions, for methods that train on pairs (DPO, RSO).

use dissent_domain::training::rso::{RankedPair, Ranking, accepted, ranked_pairs};

use crate::error::{InvalidKind, ModelError};
use crate::training::{TokenPair, TrainingSequence};

/// The rule that turns the completions of a prompt into pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PairRule {
    /// The best against the worst: one pair.
    BestWorst,
    /// Pairs of the completions that rejection sampling keeps (RSO, arXiv 2309.06657).
    Rso {
        /// β of the acceptance exp((r − max r) / β), > 0.
        beta: f64,
        /// The number of completions to keep per prompt, at most.
        kept: usize,
        /// The pairs among the kept completions.
        ranking: Ranking,
    },
}

/// Pairs of a prompt's completions, by index, with the higher reward as chosen. `seed` belongs to the prompt.
///
/// Completions of equal reward make no pair. Neither do equal completions, which carry no preference.
/// `token_ids` are the completions', in the order of `rewards`.
///
/// # Errors
/// [`ModelError::Invalid`] if the number of rewards differs from the number of completions, a reward is not
/// finite, or β is out of range.
pub fn preference_pairs(
    token_ids: &[&[u32]],
    rewards: &[f64],
    rule: PairRule,
    seed: [u8; 32],
) -> Result<Vec<RankedPair>, ModelError> {
    if token_ids.len() != rewards.len() {
        return Err(ModelError::invalid(
            InvalidKind::Data,
            format!(
                "{} rewards do not fit {} completions: each completion needs one",
                rewards.len(),
                token_ids.len()
            ),
        ));
    }
    if let Some(index) = rewards.iter().position(|reward| !reward.is_finite()) {
        return Err(ModelError::invalid(
            InvalidKind::NotFinite,
            format!("the reward of completion {index} is {}: it must be a finite number", rewards[index]),
        ));
    }
    let mut pairs = match rule {
        PairRule::BestWorst => best_and_worst(rewards).into_iter().collect(),
        PairRule::Rso { beta, kept, ranking } => {
            let kept = accepted(rewards, beta, kept, seed)
                .map_err(|error| ModelError::invalid(InvalidKind::Setting, error.to_string()))?;
            ranked_pairs(&kept, rewards, ranking, seed)
        }
    };
    pairs.retain(|pair| token_ids[pair.chosen] != token_ids[pair.rejected]);
    Ok(pairs)
}

/// Returns the pairs of [`preference_pairs`] as training examples without a margin, with the sampled tokens.
///
/// # Errors
/// As [`preference_pairs`].
pub fn token_pairs(
    prompt_ids: &[u32],
    token_ids: &[&[u32]],
    rewards: &[f64],
    rule: PairRule,
    seed: [u8; 32],
) -> Result<Vec<TokenPair>, ModelError> {
    let sequence = |completion: usize| TrainingSequence {
        ids: [prompt_ids, token_ids[completion]].concat(),
        completion_start: prompt_ids.len(),
        skipped: Vec::new(),
    };
    let pairs = preference_pairs(token_ids, rewards, rule, seed)?;
    let example = |pair: RankedPair| TokenPair {
        chosen: sequence(pair.chosen),
        rejected: sequence(pair.rejected),
        margin: 0.0,
        is_unsafe: None,
    };
    Ok(pairs.into_iter().map(example).collect())
}

/// Returns the first of the best and the first of the worst; `None` if all rewards are equal.
fn best_and_worst(rewards: &[f64]) -> Option<RankedPair> {
    let first = |better: fn(f64, f64) -> bool| {
        (0..rewards.len())
            .reduce(|best, index| if better(rewards[index], rewards[best]) { index } else { best })
    };
    let (chosen, rejected) = (first(|a, b| a > b)?, first(|a, b| a < b)?);
    (rewards[chosen] > rewards[rejected]).then_some(RankedPair { chosen, rejected })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u8; 32] = [7; 32];

    fn pairs(token_ids: &[&[u32]], rewards: &[f64], rule: PairRule) -> Vec<RankedPair> {
        preference_pairs(token_ids, rewards, rule, SEED).expect("pairs")
    }

    #[test]
    fn the_best_completion_is_chosen_over_the_worst() {
        let ids: [&[u32]; 4] = [&[1], &[2], &[3], &[4]];
        let found = pairs(&ids, &[0.5, 2.0, -1.0, 2.0], PairRule::BestWorst);
        assert_eq!(found, [RankedPair { chosen: 1, rejected: 2 }]);
        assert_eq!(pairs(&ids, &[1.0; 4], PairRule::BestWorst), []);
        assert_eq!(pairs(&[], &[], PairRule::BestWorst), []);
    }

    #[test]
    fn examples_have_the_sampled_tokens() {
        let found = token_pairs(&[9, 8], &[&[1, 0], &[2, 3, 0]], &[0.5, 2.0], PairRule::BestWorst, SEED);
        let sequence =
            |ids: &[u32]| TrainingSequence { ids: ids.to_vec(), completion_start: 2, skipped: Vec::new() };
        let expected = TokenPair {
            chosen: sequence(&[9, 8, 2, 3, 0]),
            rejected: sequence(&[9, 8, 1, 0]),
            margin: 0.0,
            is_unsafe: None,
        };
        assert_eq!(found.expect("pairs"), [expected]);
    }

    #[test]
    fn equal_completions_make_no_pair_even_with_unequal_rewards() {
        assert_eq!(pairs(&[&[1, 2], &[1, 2]], &[0.0, 1.0], PairRule::BestWorst), []);
    }

    #[test]
    fn rso_compares_kept_completions_only() {
        let ids: Vec<Vec<u32>> = (0..8).map(|id| vec![id]).collect();
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let rewards: Vec<f64> = (0..8).map(f64::from).collect();
        // At such a β only the best are accepted, one at a time.
        let rule = PairRule::Rso { beta: 0.01, kept: 4, ranking: Ranking::Tournament };
        let found = pairs(&ids, &rewards, rule);
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|pair| pair.chosen > pair.rejected && pair.rejected >= 4), "{found:?}");
        assert_eq!(found, pairs(&ids, &rewards, rule), "the same seed gives the same pairs");
    }

    #[test]
    fn invalid_inputs_of_pairs_are_refused() {
        let refusal = |rewards: &[f64], rule| {
            let error = preference_pairs(&[&[1], &[2]], rewards, rule, SEED).expect_err("refused");
            error.invalid_kind().expect("an invalid input")
        };
        assert_eq!(refusal(&[1.0], PairRule::BestWorst), InvalidKind::Data);
        assert_eq!(refusal(&[1.0, f64::NAN], PairRule::BestWorst), InvalidKind::NotFinite);
        let rule = PairRule::Rso { beta: 0.0, kept: 2, ranking: Ranking::FirstRound };
        assert_eq!(refusal(&[1.0, 2.0], rule), InvalidKind::Setting);
    }
}
