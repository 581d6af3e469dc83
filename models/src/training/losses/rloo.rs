//! REINFORCE with a leave-one-out baseline (RLOO, arXiv 2402.14740), as TRL's `RLOOTrainer`: the ratio of
//! whole completions is clipped.
//!
//! Σ w · max(−A ρ, −A clip(ρ, 1 ± ε)), with ρ = π(y | x) / π_old(y | x). The KL penalty is part of the
//! rewards behind A.

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
