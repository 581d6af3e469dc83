//! Proximal policy optimisation (PPO, arXiv 1707.06347), in the order of TRL's `PPOTrainer`.
//!
//! Rewards per token come from the KL divergence and the score, advantages from generalised advantage
//! estimation (arXiv 1506.02438). Returns are computed before whitening. Whitening covers all completion
//! tokens of the iteration. For the loss, see [`crate::training::losses`].

use std::collections::BTreeMap;

use dissent_domain::training::PpoSettings;
use dissent_domain::training::advantage::{gae, token_rewards, whitened};

use super::rollout::Rollout;
use super::rollout_math::{
    AdvantageEstimate, Means, MicroBatch, by_token, divergences, mean, rewards, single,
};
use crate::training::losses::ppo_report;
use crate::training::{BatchOutput, LossInputs};

pub(super) fn advantages(
    rollouts: &[Rollout],
    settings: &PpoSettings,
    kl_coefficient: f64,
    metrics: &mut BTreeMap<String, f64>,
) -> Vec<AdvantageEstimate> {
    let scores = rewards(rollouts, settings);
    report_objective(rollouts, &scores, settings, kl_coefficient, metrics);
    let mut estimates: Vec<AdvantageEstimate> = rollouts
        .iter()
        .zip(&scores)
        .map(|(rollout, &score)| {
            let kl = settings.kl_estimator.estimates(&rollout.logprobs, &rollout.reference_logprobs);
            let rewards = token_rewards(&kl, kl_coefficient, score);
            let estimate = gae(&rewards, &rollout.values, settings.gamma, settings.lambda);
            AdvantageEstimate { advantages: estimate.advantages, returns: estimate.returns }
        })
        .collect();
    if settings.whiten_advantages {
        let all: Vec<f64> = estimates.iter().flat_map(|estimate| &estimate.advantages).copied().collect();
        let white = whitened(&all);
        let places = estimates.iter_mut().flat_map(|estimate| &mut estimate.advantages);
        places.zip(white).for_each(|(place, advantage)| *place = advantage);
    }
    estimates
}

/// TRL's `objective/*`: means over completions of sums over tokens. The entropy is estimated from the
/// samples, −log π.
fn report_objective(
    rollouts: &[Rollout],
    scores: &[f64],
    settings: &PpoSettings,
    kl_coefficient: f64,
    metrics: &mut BTreeMap<String, f64>,
) {
    let kl = mean(divergences(rollouts, settings).into_iter());
    let entropy = mean(rollouts.iter().map(|rollout| -rollout.logprobs.iter().sum::<f64>()));
    let score = mean(scores.iter().copied());
    let non_score_reward = -kl_coefficient * kl;
    for (name, value) in [
        ("objective/kl", kl),
        ("objective/entropy", entropy),
        ("objective/non_score_reward", non_score_reward),
        ("objective/rlhf_reward", score + non_score_reward),
        ("objective/scores", score),
        ("val/num_eos_tokens", rollouts.iter().filter(|rollout| rollout.stopped).count() as f64),
    ] {
        metrics.insert(name.to_owned(), value);
    }
}

pub(super) fn inputs(batch: &MicroBatch<'_>, settings: &PpoSettings) -> LossInputs {
    let weight = 1.0 / batch.step_tokens.max(1) as f64;
    LossInputs::Ppo {
        old_logprobs: by_token(batch, |rollout, _| rollout.logprobs.clone()),
        old_values: by_token(batch, |rollout, _| rollout.values.clone()),
        advantages: by_token(batch, |_, estimate| estimate.advantages.clone()),
        returns: by_token(batch, |_, estimate| estimate.returns.clone()),
        weights: by_token(batch, |rollout, _| vec![weight; rollout.tokens()]),
        clip: single(settings.clip),
        value_clip: single(settings.value_clip),
        value_coefficient: single(settings.value_coefficient),
    }
}

pub(super) fn observe(inputs: &LossInputs, output: &BatchOutput, means: &mut Means) {
    let model = &output.model;
    let report = ppo_report(inputs, &model.logprobs, &model.values);
    for (name, value) in [
        ("policy/approxkl_avg", report.approx_kl),
        ("policy/clipfrac_avg", report.clip_fraction),
        ("policy/entropy_avg", mean(model.entropy.iter().map(|&entropy| f64::from(entropy)))),
        ("loss/policy_avg", report.policy_loss),
        ("loss/value_avg", report.value_loss),
        ("val/ratio", report.ratio),
        ("val/clipfrac_avg", value_clip_fraction(inputs, &model.values)),
    ] {
        means.add(name, value);
    }
}

/// Returns the share of tokens whose value loss was increased by clipping.
fn value_clip_fraction(inputs: &LossInputs, values: &[f32]) -> f64 {
    let LossInputs::Ppo { old_values, returns, value_clip, .. } = inputs else { return 0.0 };
    let is_clipped = |((value, old), target): ((&f32, &f32), &f32)| {
        let clipped = old + (value - old).clamp(-value_clip, *value_clip);
        f64::from(u8::from((clipped - target).powi(2) > (value - target).powi(2)))
    };
    mean(values.iter().zip(old_values).zip(returns).map(is_clipped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::TrainingSequence;

    fn rollout(logprobs: &[f64], reference_logprobs: &[f64], values: &[f64], score: f64) -> Rollout {
        Rollout {
            prompt: 0,
            sequence: TrainingSequence {
                ids: vec![1; 1 + logprobs.len()],
                completion_start: 1,
                skipped: Vec::new(),
            },
            stopped: true,
            has_stop_token: false,
            text: String::new(),
            score,
            logprobs: logprobs.to_vec(),
            reference_logprobs: reference_logprobs.to_vec(),
            values: values.to_vec(),
        }
    }

    #[track_caller]
    fn assert_rounded(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 5.1e-7, "{found}, expected {expected}");
        }
    }

    #[test]
    fn advantages_and_returns_have_worked_values() {
        // With a KL weight of .1, divergences of 0, 1 and 0 and a score of .9 give the rewards 0, −.1 and .9.
        let rollout = rollout(&[-1.0, -1.0, -2.0], &[-1.0, -2.0, -2.0], &[0.5, 0.4, 0.6], 0.9);
        let settings = PpoSettings { whiten_advantages: false, ..PpoSettings::default() };
        let mut metrics = BTreeMap::new();
        let plain = advantages(std::slice::from_ref(&rollout), &settings, 0.1, &mut metrics);
        assert_rounded(&plain[0].advantages, &[0.265_75, 0.385, 0.3]);
        assert_rounded(&plain[0].returns, &[0.765_75, 0.785, 0.9]);
        let settings = PpoSettings::default();
        let white = advantages(std::slice::from_ref(&rollout), &settings, 0.1, &mut metrics);
        assert_rounded(&white[0].advantages, &[-0.833_353, 1.108_875, -0.275_522]);
        assert_rounded(&white[0].returns, &plain[0].returns);
        let objective = ["kl", "entropy", "non_score_reward", "scores", "rlhf_reward"];
        let found = objective.map(|name| metrics[&format!("objective/{name}")]);
        assert_rounded(&found, &[1.0, 4.0, -0.1, 0.9, 0.8]);
    }

    #[test]
    fn advantages_are_whitened_over_the_tokens_of_all_completions() {
        let rollouts = [
            rollout(&[-1.0, -1.0], &[-1.0, -1.0], &[0.0, 0.5], 1.0),
            rollout(&[-1.0; 5], &[-1.5; 5], &[0.1, 0.2, 0.3, 0.4, 0.5], -1.0),
        ];
        let found = advantages(&rollouts, &PpoSettings::default(), 0.05, &mut BTreeMap::new());
        let all: Vec<f64> = found.iter().flat_map(|estimate| estimate.advantages.clone()).collect();
        assert_eq!([found[0].advantages.len(), found[1].advantages.len()], [2, 5]);
        assert_rounded(&[mean(all.iter().copied())], &[0.0]);
        let squares: f64 = all.iter().map(|advantage| advantage * advantage).sum();
        assert!((squares / 6.0 - 1.0).abs() < 1e-6, "{squares}");
    }

    #[test]
    fn values_are_counted_as_clipped_where_the_clipped_error_is_larger() {
        let inputs = LossInputs::Ppo {
            old_logprobs: vec![0.0; 3],
            old_values: vec![0.5, 0.5, 0.5],
            advantages: vec![0.0; 3],
            returns: vec![0.2, 1.2, 1.0],
            weights: vec![1.0; 3],
            clip: 0.2,
            value_clip: 0.2,
            value_coefficient: 0.1,
        };
        // Away from the return, beyond the range towards it, and within the range.
        assert_rounded(&[value_clip_fraction(&inputs, &[1.0, 1.0, 0.6])], &[1.0 / 3.0]);
    }
}
