//! REINFORCE with a leave-one-out baseline (RLOO, arXiv 2402.14740), as TRL's `RLOOTrainer`.
//!
//! The KL divergence of a whole completion is subtracted from its reward. The baseline is the mean over the
//! other completions of its prompt. The ratio of whole completions is clipped.

use std::collections::BTreeMap;

use dissent_domain::training::PpoSettings;
use dissent_domain::training::advantage::leave_one_out;

use super::rollout::Rollout;
use super::rollout_math::{
    AdvantageEstimate, Means, MicroBatch, by_group, clip_ratio, divergences, mean, narrow, report_rewards,
    rewards, single,
};
use crate::training::{BatchOutput, LossInputs};

pub(super) fn advantages(
    rollouts: &[Rollout],
    settings: &PpoSettings,
    kl_coefficient: f64,
    metrics: &mut BTreeMap<String, f64>,
) -> Vec<AdvantageEstimate> {
    let rewards = rewards(rollouts, settings);
    report_rewards(rollouts, &rewards, metrics);
    let kl = divergences(rollouts, settings);
    let tokens: usize = rollouts.iter().map(Rollout::tokens).sum();
    // Per token, as TRL reports it.
    metrics.insert("kl".to_owned(), kl.iter().sum::<f64>() / tokens.max(1) as f64);
    let tied: Vec<f64> = rewards.iter().zip(&kl).map(|(reward, kl)| reward - kl_coefficient * kl).collect();
    by_group(&tied, settings, leave_one_out)
}

pub(super) fn inputs(batch: &MicroBatch<'_>, settings: &PpoSettings) -> LossInputs {
    let sums: Vec<f64> = batch.members.iter().map(|(rollout, _)| rollout.logprobs.iter().sum()).collect();
    let advantages: Vec<f64> =
        batch.members.iter().flat_map(|(_, estimate)| &estimate.advantages).copied().collect();
    LossInputs::Rloo {
        old_logprobs: narrow(&sums),
        advantages: narrow(&advantages),
        weights: vec![single(1.0 / batch.step_completions.max(1) as f64); batch.members.len()],
        clip: single(settings.clip),
    }
}

pub(super) fn observe(inputs: &LossInputs, output: &BatchOutput, means: &mut Means) {
    let LossInputs::Rloo { old_logprobs, advantages, clip, .. } = inputs else { return };
    means.add("clip_ratio", clip_ratio(&output.sequence_logprobs, old_logprobs, advantages, *clip));
    means.add("entropy", mean(output.model.entropy.iter().map(|&entropy| f64::from(entropy))));
}
