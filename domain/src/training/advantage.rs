//! Advantages of completions: generalised advantage estimation, whitening, group-relative and leave-one-out
//! baselines.
//!
//! All inputs are response tokens only, so no mask is needed. Tokens before the response or after its stop
//! token have no reward, value or advantage.

/// Added to the variance when whitening, as in TRL: equal advantages then cause no division by 0.
const VARIANCE_MIN: f64 = 1e-8;
/// Added to the standard deviation of a group, as in TRL: equal rewards then cause no division by 0.
const DEVIATION_MIN: f64 = 1e-4;

/// Returns the score of a completion, minus `missing_eos_penalty` if the completion has no stop token.
#[must_use]
pub fn penalised_score(score: f64, stopped: bool, missing_eos_penalty: Option<f64>) -> f64 {
    if stopped { score } else { score - missing_eos_penalty.unwrap_or(0.0) }
}

/// Returns the reward of each response token, shape `[T]`: −β·klₜ, plus the score for the last token.
///
/// `kl` has the estimated divergence from the reference for each token, in nats. Without tokens the result is
/// empty, and the score is lost.
#[must_use]
pub fn token_rewards(kl: &[f64], kl_coefficient: f64, score: f64) -> Vec<f64> {
    let mut rewards: Vec<f64> = kl.iter().map(|kl| -kl_coefficient * kl).collect();
    if let Some(last) = rewards.last_mut() {
        *last += score;
    }
    rewards
}

/// The advantages of the tokens of one completion, and the targets of the value head.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Estimate {
    /// The advantage of each token, shape `[T]`, before whitening.
    pub advantages: Vec<f64>,
    /// The target of the value head for each token, shape `[T]`: advantage + value. The advantage is not
    /// whitened, because whitening removes the scale of the rewards.
    pub returns: Vec<f64>,
}

/// Estimates the advantages of the response tokens of one completion (generalised advantage estimation, arXiv
/// 1506.02438).
///
/// δₜ = rₜ + γ·Vₜ₊₁ − Vₜ, where V is 0 after the end, and Aₜ = δₜ + γλ·Aₜ₊₁. `rewards` and `values` have one
/// number per token; `gamma` and `lambda` are in [0, 1]. For λ = 1 the advantage is the discounted return
/// minus the value, for λ = 0 it is δ.
#[must_use]
pub fn gae(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Estimate {
    debug_assert_eq!(rewards.len(), values.len(), "one reward and one value per response token");
    let mut advantages: Vec<f64> = Vec::with_capacity(rewards.len());
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for (reward, value) in rewards.iter().zip(values).rev() {
        let delta = reward + gamma * next_value - value;
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = *value;
        advantages.push(next_advantage);
    }
    advantages.reverse();
    let returns = advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect();
    Estimate { advantages, returns }
}

/// Returns the advantages of all response tokens of a batch, shifted and scaled to mean 0 and variance 1: (A
/// − mean) / √(variance + 1e-8). The variance is unbiased (ddof 1), as in `masked_whiten` of TRL.
///
/// Fewer than two advantages have no variance: the result is 0.
#[must_use]
pub fn whitened(advantages: &[f64]) -> Vec<f64> {
    let Some((mean, variance)) = mean_and_variance(advantages) else { return vec![0.0; advantages.len()] };
    let scale = 1.0 / (variance + VARIANCE_MIN).sqrt();
    advantages.iter().map(|advantage| (advantage - mean) * scale).collect()
}

/// Returns the group-relative advantages of the completions of one prompt (GRPO, arXiv 2402.03300): (r −
/// mean) / (standard deviation + 1e-4). The standard deviation is unbiased (ddof 1), as in TRL.
///
/// Fewer than two completions cannot be compared: their advantages are 0.
#[must_use]
pub fn group_relative(rewards: &[f64]) -> Vec<f64> {
    let Some((mean, variance)) = mean_and_variance(rewards) else { return vec![0.0; rewards.len()] };
    let deviation = variance.sqrt() + DEVIATION_MIN;
    rewards.iter().map(|reward| (reward - mean) / deviation).collect()
}

/// Returns the leave-one-out advantages of the completions of one prompt (RLOO, arXiv 2402.14740): each
/// reward minus the mean of the others.
///
/// Fewer than two completions cannot be compared: their advantages are 0.
#[must_use]
pub fn leave_one_out(rewards: &[f64]) -> Vec<f64> {
    let Some((mean, _)) = mean_and_variance(rewards) else { return vec![0.0; rewards.len()] };
    // r − (Σ − r)/(N − 1) = (r − mean)·N/(N − 1). The right side subtracts no large sums.
    let n = rewards.len() as f64;
    rewards.iter().map(|reward| (reward - mean) * (n / (n - 1.0))).collect()
}

/// Returns the mean and the unbiased variance; `None` for fewer than two numbers.
fn mean_and_variance(numbers: &[f64]) -> Option<(f64, f64)> {
    let n = numbers.len() as f64;
    if numbers.len() < 2 {
        return None;
    }
    let mean = numbers.iter().sum::<f64>() / n;
    let squares: f64 = numbers.iter().map(|number| (number - mean) * (number - mean)).sum();
    Some((mean, squares / (n - 1.0)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_rounded(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 5.1e-7, "{found}, expected {expected}");
        }
    }

    #[test]
    fn gae_gives_the_worked_numbers() {
        let found = gae(&[0.0, -0.1, 0.9], &[0.5, 0.4, 0.6], 1.0, 0.95);
        assert_rounded(&found.advantages, &[0.265_75, 0.385, 0.3]);
        assert_rounded(&found.returns, &[0.765_75, 0.785, 0.9]);
        assert_rounded(&whitened(&found.advantages), &[-0.833_353, 1.108_875, -0.275_522]);
    }

    #[test]
    fn group_relative_advantages_give_the_worked_numbers() {
        let found = group_relative(&[1.0, 0.0, 0.5, 2.0]);
        assert_rounded(&found, &[0.146_368, -1.024_575, -0.439_104, 1.317_311]);
    }

    #[test]
    fn leave_one_out_advantages_give_the_worked_numbers() {
        assert_rounded(&leave_one_out(&[1.0, 0.0, 0.5, 2.0]), &[0.166_667, -1.166_667, -0.5, 1.5]);
    }

    #[test]
    fn the_last_response_token_gets_the_score() {
        assert_rounded(&token_rewards(&[0.0, 2.0, -2.0], 0.05, 1.0), &[0.0, -0.1, 1.1]);
        assert_eq!(token_rewards(&[], 0.05, 1.0), Vec::<f64>::new());
    }

    #[test]
    fn only_a_completion_without_a_stop_token_is_penalised() {
        assert_rounded(&[penalised_score(1.0, true, Some(2.5))], &[1.0]);
        assert_rounded(&[penalised_score(1.0, false, Some(2.5))], &[-1.5]);
        assert_rounded(&[penalised_score(1.0, false, None)], &[1.0]);
    }

    #[test]
    fn incomparable_completions_have_no_advantage() {
        for advantages in [group_relative, leave_one_out, whitened] {
            assert_eq!(advantages(&[]), Vec::<f64>::new());
            assert_eq!(advantages(&[7.0]), [0.0]);
            assert_rounded(&advantages(&[3.0; 5]), &[0.0; 5]);
        }
    }

    fn numbers(lengths: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(-50.0..50.0_f64, lengths)
    }

    fn tokens() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        prop::collection::vec((-5.0..5.0_f64, -5.0..5.0_f64), 0..60)
            .prop_map(|pairs| pairs.into_iter().unzip())
    }

    fn spread(values: &[f64]) -> f64 {
        mean_and_variance(values).map_or(0.0, |(_, variance)| variance)
    }

    proptest! {
        #[test]
        fn with_lambda_one_the_advantage_is_the_discounted_return_minus_the_value(
            (rewards, values) in tokens(), gamma in 0.0..=1.0_f64,
        ) {
            let found = gae(&rewards, &values, gamma, 1.0);
            for start in 0..rewards.len() {
                let discounted: f64 =
                    rewards[start..].iter().rev().fold(0.0, |later, reward| reward + gamma * later);
                prop_assert!((found.advantages[start] - (discounted - values[start])).abs() < 1e-9);
                prop_assert!((found.returns[start] - discounted).abs() < 1e-9);
            }
        }

        #[test]
        fn with_lambda_zero_the_advantage_is_the_one_step_error(
            (rewards, values) in tokens(), gamma in 0.0..=1.0_f64,
        ) {
            let found = gae(&rewards, &values, gamma, 0.0);
            for (t, advantage) in found.advantages.iter().enumerate() {
                let next = values.get(t + 1).unwrap_or(&0.0);
                prop_assert!((advantage - (rewards[t] + gamma * next - values[t])).abs() < 1e-12);
            }
        }

        #[test]
        fn gae_is_the_discounted_sum_of_the_errors(
            (rewards, values) in tokens(), gamma in 0.0..=1.0_f64, lambda in 0.0..=1.0_f64,
        ) {
            let errors = gae(&rewards, &values, gamma, 0.0).advantages;
            let found = gae(&rewards, &values, gamma, lambda).advantages;
            for (t, advantage) in found.iter().enumerate() {
                let sum: f64 = (0_i32..)
                    .zip(&errors[t..])
                    .map(|(steps, error)| (gamma * lambda).powi(steps) * error)
                    .sum();
                prop_assert!((advantage - sum).abs() < 1e-9, "{advantage} {sum}");
            }
        }

        #[test]
        fn whitened_advantages_have_mean_zero_and_variance_one(advantages in numbers(2..200)) {
            prop_assume!(spread(&advantages) > 1e-3);
            let found = whitened(&advantages);
            let (mean, variance) = mean_and_variance(&found).unwrap();
            prop_assert!(mean.abs() < 1e-9, "{mean}");
            prop_assert!((variance - 1.0).abs() < 1e-4, "{variance}");
        }

        #[test]
        fn advantages_within_a_group_sum_to_zero(rewards in numbers(0..64)) {
            for advantages in [leave_one_out(&rewards), group_relative(&rewards)] {
                prop_assert_eq!(advantages.len(), rewards.len());
                prop_assert!(advantages.iter().sum::<f64>().abs() < 1e-8, "{:?}", advantages);
            }
        }

        #[test]
        fn a_leave_one_out_advantage_is_the_reward_minus_the_mean_of_the_others(rewards in numbers(2..64)) {
            for (index, advantage) in leave_one_out(&rewards).iter().enumerate() {
                let others: f64 = rewards.iter().sum::<f64>() - rewards[index];
                let expected = rewards[index] - others / (rewards.len() as f64 - 1.0);
                prop_assert!((advantage - expected).abs() < 1e-9, "{advantage} {expected}");
            }
        }

        #[test]
        fn a_common_offset_of_the_rewards_changes_no_advantage(
            rewards in numbers(2..64), offset in -100.0..100.0_f64,
        ) {
            let moved: Vec<f64> = rewards.iter().map(|reward| reward + offset).collect();
            for advantages in [group_relative, leave_one_out] {
                for (found, expected) in advantages(&moved).iter().zip(&advantages(&rewards)) {
                    prop_assert!((found - expected).abs() < 1e-6, "{found} {expected}");
                }
            }
        }

        #[test]
        fn permuting_completions_permutes_their_advantages(
            rewards in numbers(2..64), keys in prop::collection::vec(any::<u64>(), 64),
        ) {
            let mut order: Vec<usize> = (0..rewards.len()).collect();
            order.sort_by_key(|&index| keys[index]);
            let permute = |values: &[f64]| order.iter().map(|&index| values[index]).collect::<Vec<_>>();
            for advantages in [group_relative, leave_one_out, whitened] {
                let found = advantages(&permute(&rewards));
                for (found, expected) in found.iter().zip(&permute(&advantages(&rewards))) {
                    prop_assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0));
                }
            }
        }

        #[test]
        fn token_rewards_sum_to_the_score_minus_the_weighted_divergence(
            kl in numbers(1..64), coefficient in 0.0..2.0_f64, score in -10.0..10.0_f64,
        ) {
            let sum: f64 = token_rewards(&kl, coefficient, score).iter().sum();
            prop_assert!((sum - (score - coefficient * kl.iter().sum::<f64>())).abs() < 1e-8);
        }
    }
}
