//! Computations that the methods share: rewards, KL divergences, advantages, and means of metrics.

use std::collections::BTreeMap;

use dissent_domain::training::PpoSettings;
use dissent_domain::training::advantage::penalised_score;

use super::rollout::Rollout;

pub(super) use crate::training::metrics::mean;

/// The advantages of one completion, and its returns for a value head.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct AdvantageEstimate {
    /// One per completion token (PPO), or one for the whole completion.
    pub(super) advantages: Vec<f64>,
    /// The target value of each position (PPO).
    pub(super) returns: Vec<f64>,
}

/// The completions of a micro-batch.
pub(super) struct MicroBatch<'a> {
    pub(super) members: Vec<(&'a Rollout, &'a AdvantageEstimate)>,
    /// Completion tokens of the whole step, which may have several micro-batches.
    pub(super) step_tokens: usize,
    /// Completions of the whole step.
    pub(super) step_completions: usize,
}

/// Returns the rewards of completions, after the penalty for a missing stop token.
pub(super) fn rewards(rollouts: &[Rollout], settings: &PpoSettings) -> Vec<f64> {
    let penalty = settings.missing_eos_penalty;
    rollouts.iter().map(|rollout| penalised_score(rollout.score, rollout.stopped, penalty)).collect()
}

/// Returns the estimated KL divergence of each completion from the reference: the sum over its tokens, in
/// nats.
pub(super) fn divergences(rollouts: &[Rollout], settings: &PpoSettings) -> Vec<f64> {
    let estimator = settings.kl_estimator;
    let sum = |rollout: &Rollout| {
        estimator.estimates(&rollout.logprobs, &rollout.reference_logprobs).iter().sum::<f64>()
    };
    rollouts.iter().map(sum).collect()
}

/// Adds the metrics that GRPO and RLOO share, under TRL's names. They are mean and standard deviation (ddof
/// 1) of the iteration's rewards, and the mean length of completions in tokens.
pub(super) fn report_rewards(rollouts: &[Rollout], rewards: &[f64], metrics: &mut BTreeMap<String, f64>) {
    let (count, average) = (rewards.len() as f64, mean(rewards.iter().copied()));
    let squares: f64 = rewards.iter().map(|reward| (reward - average).powi(2)).sum();
    let deviation = if count > 1.0 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
    let lengths = rollouts.iter().map(|rollout| rollout.tokens() as f64);
    for (name, value) in
        [("reward", average), ("reward_std", deviation), ("completion_length", mean(lengths))]
    {
        metrics.insert(name.to_owned(), value);
    }
}

/// Returns the advantages of completions relative to their prompt's group: one per completion.
pub(super) fn by_group(
    rewards: &[f64],
    settings: &PpoSettings,
    advantages: impl Fn(&[f64]) -> Vec<f64>,
) -> Vec<AdvantageEstimate> {
    let samples = usize::try_from(settings.samples).unwrap_or(usize::MAX).max(1);
    let estimate = |advantage| AdvantageEstimate { advantages: vec![advantage], returns: Vec::new() };
    rewards.chunks(samples).flat_map(advantages).map(estimate).collect()
}

/// Returns the share of ratios outside the range on the side to which their advantage pushes (TRL's
/// `clip_ratio/region_mean`).
pub(super) fn clip_ratio(logprobs: &[f32], old_logprobs: &[f32], advantages: &[f32], clip: f32) -> f64 {
    let is_clipped = |((&logprob, &old), &advantage): ((&f32, &f32), &f32)| {
        let ratio = (f64::from(logprob) - f64::from(old)).exp();
        let clip = f64::from(clip);
        let low = ratio < 1.0 - clip && advantage < 0.0;
        let high = ratio > 1.0 + clip && advantage > 0.0;
        f64::from(u8::from(low || high))
    };
    mean(logprobs.iter().zip(old_logprobs).zip(advantages).map(is_clipped))
}

/// Per-token numbers of the completions, concatenated over a batch.
pub(super) fn by_token(
    batch: &MicroBatch<'_>,
    numbers: impl Fn(&Rollout, &AdvantageEstimate) -> Vec<f64>,
) -> Vec<f32> {
    batch.members.iter().flat_map(|(rollout, estimate)| narrow(&numbers(rollout, estimate))).collect()
}

/// 64-bit numbers as 32-bit inputs of graphs.
#[expect(clippy::cast_possible_truncation, reason = "losses are computed in 32 bits")]
pub(super) fn narrow(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&number| number as f32).collect()
}

/// One 64-bit number as a 32-bit input of a graph.
#[expect(clippy::cast_possible_truncation, reason = "losses are computed in 32 bits")]
pub(super) fn single(number: f64) -> f32 {
    number as f32
}

/// Means over the micro-batches of an iteration, all with equal weight, as TRL's `_avg` metrics.
#[derive(Debug, Default)]
pub(super) struct Means(BTreeMap<&'static str, (f64, f64)>);

impl Means {
    pub(super) fn add(&mut self, name: &'static str, value: f64) {
        let (sum, count) = self.0.entry(name).or_default();
        *sum += value;
        *count += 1.0;
    }

    pub(super) fn report(self, metrics: &mut BTreeMap<String, f64>) {
        metrics.extend(self.0.into_iter().map(|(name, (sum, count))| (name.to_owned(), sum / count)));
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::training::advantage::group_relative;

    use super::*;

    #[test]
    fn completions_are_compared_within_their_prompt_only() {
        let settings = PpoSettings { samples: 4, ..PpoSettings::default() };
        let rewards = [1.0, 0.0, 0.5, 2.0, 101.0, 100.0, 100.5, 102.0];
        let found = by_group(&rewards, &settings, group_relative);
        let expected = [0.146_368, -1.024_575, -0.439_104, 1.317_311];
        for (estimate, expected) in found.iter().zip(expected.iter().chain(&expected)) {
            assert!((estimate.advantages[0] - expected).abs() < 1e-5, "{estimate:?} {expected}");
        }
        assert_eq!(found.len(), 8);
    }

    #[test]
    fn a_ratio_counts_as_clipped_only_where_its_advantage_pushes_it_out() {
        let ratio = |ratio: f32| ratio.ln();
        let logprobs = [ratio(1.5), ratio(1.5), ratio(0.5), ratio(0.5), ratio(1.1)];
        let found = clip_ratio(&logprobs, &[0.0; 5], &[1.0, -1.0, 1.0, -1.0, 1.0], 0.2);
        assert!((found - 0.4).abs() < 1e-12, "{found}");
    }
}
