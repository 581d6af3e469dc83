//! REINFORCE with a leave-one-out baseline (arXiv 2402.14740), with the ratio of whole completions clipped, as TRL's `RLOOTrainer`:
//! Σ w · max(−A ρ, −A clip(ρ, 1 ± ε)), ρ = π(y | x) / π_old(y | x). The tie to the reference is in the rewards that A comes from.

use crate::error::ModelError;
use crate::onnx::Graph;

use super::terms::{LossValue, clipped_policy_loss, completion_logprobs, present, weighted_sum};
use crate::training::forward::{HeadOutputs, dims};

pub(super) fn loss(graph: &mut Graph, outputs: &HeadOutputs) -> Result<LossValue, ModelError> {
    let logprobs = completion_logprobs(graph, present(outputs.logprobs)?)?;
    let policy = clipped_policy_loss(graph, logprobs, dims::SEQUENCES)?;
    let loss = weighted_sum(graph, policy, dims::SEQUENCES)?;
    Ok(LossValue { loss, sequence_logprobs: Some(logprobs) })
}
