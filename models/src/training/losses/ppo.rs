//! Proximal policy optimisation (PPO, arXiv 1707.06347) with a clipped value loss, as TRL's `PPOTrainer`.
//!
//! Σ w · (max(−A ρ, −A clip(ρ, 1 ± ε)) + c_v · ½ max((v − R)², (v_old + clip(v − v_old, ± ε_v) − R)²)), with
//! ρ = π / π_old.

use crate::error::ModelError;
use crate::onnx::Graph;

use super::inputs::{Feed, LossInputs, clip_range, scalar, vector};
use super::terms::{LossValue, clipped_policy_loss, input, present, weighted_sum};
use crate::training::forward::{HeadOutputs, dims};

pub(super) fn loss(graph: &mut Graph, outputs: &HeadOutputs) -> Result<LossValue, ModelError> {
    let policy = clipped_policy_loss(graph, present(outputs.logprobs)?, dims::SELECTED)?;
    let values = present(outputs.values)?;
    let old_values = input(graph, "old_values", &[dims::SELECTED]);
    let returns = input(graph, "returns", &[dims::SELECTED]);
    let (low, high) = (input(graph, "value_min", &[]), input(graph, "value_max", &[]));
    let coefficient = input(graph, "half_value_coefficient", &[]);
    let change = graph.sub(values, old_values)?;
    let at_least = graph.max(change, low)?;
    let clipped_change = graph.min(at_least, high)?;
    let clipped = graph.add(old_values, clipped_change)?;
    let mut squares = Vec::with_capacity(2);
    for values in [values, clipped] {
        let error = graph.sub(values, returns)?;
        squares.push(graph.square(error));
    }
    let worse = graph.max(squares[0], squares[1])?;
    let value = graph.mul(worse, coefficient)?;
    let token_losses = graph.add(policy, value)?;
    let loss = weighted_sum(graph, token_losses, dims::SELECTED)?;
    Ok(LossValue { loss, sequence_logprobs: None })
}

pub(super) fn feeds(inputs: &LossInputs) -> Vec<Feed> {
    let LossInputs::Ppo {
        old_logprobs,
        old_values,
        advantages,
        returns,
        weights,
        clip,
        value_clip,
        value_coefficient,
    } = inputs
    else {
        return Vec::new();
    };
    let mut feeds = vec![
        vector("old_logprobs", old_logprobs),
        vector("old_values", old_values),
        vector("advantages", advantages),
        vector("returns", returns),
        vector("weights", weights),
        scalar("value_min", -value_clip),
        scalar("value_max", *value_clip),
        scalar("half_value_coefficient", 0.5 * value_coefficient),
    ];
    feeds.extend(clip_range(*clip));
    feeds
}

/// The report of a PPO step: means over completion tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PpoReport {
    /// `loss/policy`: max(−A ρ, −A clip(ρ)).
    pub policy_loss: f64,
    /// `loss/value`: ½ max of the squared errors, before its coefficient.
    pub value_loss: f64,
    /// `policy/approxkl`: ½ (log π − log π_old)².
    pub approx_kl: f64,
    /// `policy/clipfrac`: the share of tokens whose loss was increased by clipping.
    pub clip_fraction: f64,
    /// `val/ratio`: ρ.
    pub ratio: f64,
}

/// Returns the report of a batch; `logprobs` and `values` are the outputs of the step, `[selected]`. All
/// zeros for other losses than PPO, and for a batch without tokens.
#[must_use]
pub fn ppo_report(inputs: &LossInputs, logprobs: &[f32], values: &[f32]) -> PpoReport {
    let mut report =
        PpoReport { policy_loss: 0.0, value_loss: 0.0, approx_kl: 0.0, clip_fraction: 0.0, ratio: 0.0 };
    let LossInputs::Ppo { old_logprobs, old_values, advantages, returns, clip, value_clip, .. } = inputs
    else {
        return report;
    };
    let tokens = logprobs.len().max(1) as f64;
    let (clip, value_clip) = (f64::from(*clip), f64::from(*value_clip));
    for ((&logprob, &old), &advantage) in logprobs.iter().zip(old_logprobs).zip(advantages) {
        let (gain, advantage) = (f64::from(logprob) - f64::from(old), f64::from(advantage));
        let ratio = gain.exp();
        let (free, bounded) = (-advantage * ratio, -advantage * ratio.clamp(1.0 - clip, 1.0 + clip));
        report.policy_loss += free.max(bounded) / tokens;
        report.approx_kl += 0.5 * gain * gain / tokens;
        report.clip_fraction += f64::from(u8::from(bounded > free)) / tokens;
        report.ratio += ratio / tokens;
    }
    for ((&value, &old), &target) in values.iter().zip(old_values).zip(returns) {
        let (value, old, target) = (f64::from(value), f64::from(old), f64::from(target));
        let clipped = old + (value - old).clamp(-value_clip, value_clip);
        report.value_loss += 0.5 * (value - target).powi(2).max((clipped - target).powi(2)) / tokens;
    }
    report
}
