//! Group-relative policy optimisation (GRPO, arXiv 2402.03300), as TRL's `GRPOTrainer`.
//!
//! The advantage of a completion is its reward relative to the other completions of its prompt. The KL term
//! (estimator k3) is part of the loss, token by token. The loss is a mean over all completion tokens of a
//! step (TRL's `loss_type="dapo"`).

use std::collections::BTreeMap;

use dissent_domain::training::advantage::group_relative;
use dissent_domain::training::{KlEstimator, PpoSettings};

use super::rollout::Rollout;
use super::rollout_math::{
    AdvantageEstimate, Means, MicroBatch, by_group, by_token, clip_ratio, mean, report_rewards, rewards,
    single,
};
use crate::training::{BatchOutput, LossInputs};

pub(super) fn advantages(
    rollouts: &[Rollout],
    settings: &PpoSettings,
    metrics: &mut BTreeMap<String, f64>,
) -> Vec<AdvantageEstimate> {
    let rewards = rewards(rollouts, settings);
    report_rewards(rollouts, &rewards, metrics);
    by_group(&rewards, settings, group_relative)
}

pub(super) fn inputs(batch: &MicroBatch<'_>, settings: &PpoSettings, kl_coefficient: f64) -> LossInputs {
    let weight = 1.0 / batch.step_tokens.max(1) as f64;
    let spread = |rollout: &Rollout, estimate: &AdvantageEstimate| {
        let advantage = estimate.advantages.first().copied().unwrap_or(0.0);
        vec![advantage; rollout.tokens()]
    };
    LossInputs::Grpo {
        old_logprobs: by_token(batch, |rollout, _| rollout.logprobs.clone()),
        reference_logprobs: by_token(batch, |rollout, _| rollout.reference_logprobs.clone()),
        advantages: by_token(batch, spread),
        weights: by_token(batch, |rollout, _| vec![weight; rollout.tokens()]),
        clip: single(settings.clip),
        kl_coefficient: single(kl_coefficient),
    }
}

pub(super) fn observe(inputs: &LossInputs, output: &BatchOutput, means: &mut Means) {
    let LossInputs::Grpo { old_logprobs, reference_logprobs, advantages, clip, .. } = inputs else { return };
    let logprobs = &output.model.logprobs;
    let estimate = |(&policy, &reference): (&f32, &f32)| {
        KlEstimator::K3.estimate(f64::from(policy), f64::from(reference))
    };
    means.add("kl", mean(logprobs.iter().zip(reference_logprobs).map(estimate)));
    means.add("clip_ratio", clip_ratio(logprobs, old_logprobs, advantages, *clip));
    means.add("entropy", mean(output.model.entropy.iter().map(|&entropy| f64::from(entropy))));
}
