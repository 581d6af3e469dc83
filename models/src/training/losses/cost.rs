//! Cost-model loss of Safe-RLHF (arXiv 2310.12773, equation 6).
//!
//! Σ w · (−log σ(c₁ − c₂) − log σ(s₁ c₁) − log σ(s₂ c₂)).
//!
//! Completion 1 is the less safe one. s is +1 for an unsafe and −1 for a safe completion. A cost above 0
//! means unsafe.

use crate::error::ModelError;
use crate::onnx::Graph;

use super::terms::{LossValue, PAIRS, halves, input, present, weighted_sum};
use crate::training::forward::{HeadOutputs, dims};

pub(super) fn loss(graph: &mut Graph, outputs: &HeadOutputs) -> Result<LossValue, ModelError> {
    let costs = present(outputs.scores)?;
    let (worse, better) = halves(graph, costs)?;
    let signs = input(graph, "signs", &[dims::SEQUENCES]);
    let behind = graph.sub(better, worse)?;
    let preference = graph.softplus(behind);
    let signed = graph.mul(signs, costs)?;
    let missed = graph.neg(signed);
    let (worse_sign, better_sign) = {
        let losses = graph.softplus(missed);
        halves(graph, losses)?
    };
    let both = graph.add(worse_sign, better_sign)?;
    let pair_losses = graph.add(preference, both)?;
    let loss = weighted_sum(graph, pair_losses, PAIRS)?;
    Ok(LossValue { loss, sequence_logprobs: None })
}
