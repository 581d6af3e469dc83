//! Group-relative policy optimisation (GRPO, arXiv 2402.03300, equations 3 and 4), token by token, as TRL's
//! `GRPOTrainer`.
//!
//! Σ w · (max(−A ρ, −A clip(ρ, 1 ± ε)) + β (e^d − d − 1)), with ρ = π / π_old and d = log π_ref − log π. The
//! second term is the KL estimator k3.

use crate::error::ModelError;
use crate::onnx::Graph;

use super::inputs::{Feed, LossInputs, clip_range, scalar, vector};
use super::terms::{LossValue, clipped_policy_loss, input, present, weighted_sum};
use crate::training::forward::{HeadOutputs, dims};

pub(super) fn loss(graph: &mut Graph, outputs: &HeadOutputs) -> Result<LossValue, ModelError> {
    let logprobs = present(outputs.logprobs)?;
    let policy = clipped_policy_loss(graph, logprobs, dims::SELECTED)?;
    let reference = input(graph, "reference_logprobs", &[dims::SELECTED]);
    let coefficient = input(graph, "kl_coefficient", &[]);
    let behind = graph.sub(reference, logprobs)?;
    let ratio = graph.exp(behind);
    let excess = graph.sub(ratio, behind)?;
    let divergence = graph.shift(excess, -1.0);
    let tie = graph.mul(divergence, coefficient)?;
    let token_losses = graph.add(policy, tie)?;
    let loss = weighted_sum(graph, token_losses, dims::SELECTED)?;
    Ok(LossValue { loss, sequence_logprobs: None })
}

pub(super) fn feeds(inputs: &LossInputs) -> Vec<Feed> {
    let LossInputs::Grpo { old_logprobs, reference_logprobs, advantages, weights, clip, kl_coefficient } =
        inputs
    else {
        return Vec::new();
    };
    let mut feeds = vec![
        vector("old_logprobs", old_logprobs),
        vector("reference_logprobs", reference_logprobs),
        vector("advantages", advantages),
        vector("weights", weights),
        scalar("kl_coefficient", *kl_coefficient),
    ];
    feeds.extend(clip_range(*clip));
    feeds
}
