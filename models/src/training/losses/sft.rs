//! Supervised fine-tuning, as TRL's `SFTTrainer` with `completion_only_loss`: the negative log-likelihood of
//! the completion.
//!
//! Σ −wₜ · log π(yₜ | x, y₍<ₜ₎), over completion tokens only. With wₜ = 1/tokens it is the mean.

use crate::error::ModelError;
use crate::onnx::Graph;

use super::terms::{LossValue, present, weighted_sum};
use crate::training::forward::{HeadOutputs, dims};

pub(super) fn loss(graph: &mut Graph, outputs: &HeadOutputs) -> Result<LossValue, ModelError> {
    let surprise = graph.neg(present(outputs.logprobs)?);
    let loss = weighted_sum(graph, surprise, dims::SELECTED)?;
    Ok(LossValue { loss, sequence_logprobs: None })
}
