//! Reward-model loss by Bradley and Terry, as TRL's `RewardTrainer` (arXiv 2203.02155, section 3.5). The
//! margin follows arXiv 2307.09288, section 3.2.2, the centring arXiv 2312.09244.
//!
//! Σ w · (−log σ(r₁ − r₂ − m) + c · (r₁ + r₂)²)

use crate::error::ModelError;
use crate::onnx::Graph;

use super::terms::{LossValue, PAIRS, halves, input, present, weighted_sum};
use crate::training::forward::HeadOutputs;

pub(super) fn loss(graph: &mut Graph, outputs: &HeadOutputs) -> Result<LossValue, ModelError> {
    let (chosen, rejected) = halves(graph, present(outputs.scores)?)?;
    let margins = input(graph, "margins", &[PAIRS]);
    let center = input(graph, "center", &[]);
    let behind = graph.sub(rejected, chosen)?;
    let short = graph.add(behind, margins)?;
    // −log σ(x) is softplus(−x).
    let preference = graph.softplus(short);
    let sum = graph.add(chosen, rejected)?;
    let square = graph.square(sum);
    let off_center = graph.mul(square, center)?;
    let pair_losses = graph.add(preference, off_center)?;
    let loss = weighted_sum(graph, pair_losses, PAIRS)?;
    Ok(LossValue { loss, sequence_logprobs: None })
}
