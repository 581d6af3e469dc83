//! Direct preference optimisation, as TRL's `DPOTrainer`: Σ w · f(h), with h = (log π(y₁) − log π_ref(y₁)) −
//! (log π(y₂) − log π_ref(y₂)).
//!
//! - sigmoid: f(h) = −log σ(β h) + l β h (arXiv 2305.18290, equation 7). With l = ε this is
//!   −(1 − ε) log σ(β h) − ε log σ(−β h), the loss of smoothed labels. With l = −ε/(1 − 2ε) it is robust DPO
//!   (arXiv 2403.00409),
//! - hinge: f(h) = max(0, 1 − β h) (arXiv 2305.10425),
//! - IPO: f(h) = (h − 1/(2β))² (arXiv 2310.12036, equation 17), with means of log-probabilities over tokens
//!   instead of sums, as in TRL.

use dissent_domain::training::DpoLoss;

use crate::error::ModelError;
use crate::onnx::Graph;

use super::inputs::{Feed, scalar};
use super::terms::{LossValue, PAIRS, completion_logprobs, halves, input, present, weighted_sum};
use crate::training::forward::{HeadOutputs, dims};

const BETA: &str = "beta";
const LINEAR: &str = "linear";
/// The target of h in IPO.
const TARGET: &str = "target";

pub(super) fn loss(graph: &mut Graph, outputs: &HeadOutputs, kind: DpoLoss) -> Result<LossValue, ModelError> {
    let logprobs = completion_logprobs(graph, present(outputs.logprobs)?)?;
    let reference = input(graph, "reference", &[dims::SEQUENCES]);
    let gains = graph.sub(logprobs, reference)?;
    let (chosen, rejected) = halves(graph, gains)?;
    let ahead = graph.sub(chosen, rejected)?;
    let pair_losses = match kind {
        DpoLoss::Sigmoid | DpoLoss::Hinge => {
            let beta = input(graph, BETA, &[]);
            let scaled = graph.mul(ahead, beta)?;
            let behind = graph.neg(scaled);
            if kind == DpoLoss::Sigmoid {
                let linear = input(graph, LINEAR, &[]);
                let tilted = graph.mul(scaled, linear)?;
                let trusted = graph.softplus(behind);
                graph.add(trusted, tilted)?
            } else {
                let short = graph.shift(behind, 1.0);
                let zero = graph.constant_scalar(0.0);
                graph.max(short, zero)?
            }
        }
        DpoLoss::Ipo => {
            let target = input(graph, TARGET, &[]);
            let off = graph.sub(ahead, target)?;
            graph.square(off)
        }
    };
    let loss = weighted_sum(graph, pair_losses, PAIRS)?;
    Ok(LossValue { loss, sequence_logprobs: Some(logprobs) })
}

pub(super) fn scalars(kind: DpoLoss, beta: f32, linear: f32) -> Vec<Feed> {
    match kind {
        DpoLoss::Sigmoid => vec![scalar(BETA, beta), scalar(LINEAR, linear)],
        DpoLoss::Hinge => vec![scalar(BETA, beta)],
        DpoLoss::Ipo => vec![scalar(TARGET, 0.5 / beta)],
    }
}
