//! Terms that several losses share, as parts of a graph.

use crate::error::{InvalidKind, ModelError};
use crate::onnx::{Dim, ElementType, Graph, Value};
use crate::training::forward::dims;

/// A loss in a graph.
#[derive(Debug, Clone, Copy)]
pub(in crate::training) struct LossValue {
    /// `[]`.
    pub(in crate::training) loss: Value,
    /// `[sequences]`: log-probabilities of whole completions, if the loss uses them.
    pub(in crate::training) sequence_logprobs: Option<Value>,
}

pub(super) const MEMBERSHIP: &str = "membership";

pub(super) const PAIRS: Dim = Dim::Named("pairs");

pub(super) fn input(graph: &mut Graph, name: &str, shape: &[Dim]) -> Value {
    graph.input(name, ElementType::F32, shape.to_vec())
}

pub(super) fn present(output: Option<Value>) -> Result<Value, ModelError> {
    output.ok_or_else(|| {
        ModelError::invalid(InvalidKind::Graph, "the model's head lacks an output that the loss needs")
    })
}

/// Σ weight · x over one axis, with the weights as an input.
pub(super) fn weighted_sum(graph: &mut Graph, x: Value, dim: Dim) -> Result<Value, ModelError> {
    let weights = input(graph, "weights", &[dim]);
    let weighted = graph.mul(weights, x)?;
    Ok(graph.sum_all(weighted))
}

/// Returns the first and the second halves of `[sequences]`, `[pairs]` each.
pub(super) fn halves(graph: &mut Graph, x: Value) -> Result<(Value, Value), ModelError> {
    let rows = graph.reshape(x, vec![Dim::Fixed(2), PAIRS])?;
    let mut halves = Vec::with_capacity(2);
    for half in graph.split(rows, 0, &[1, 1])? {
        halves.push(graph.squeeze(half, 0)?);
    }
    Ok((halves[0], halves[1]))
}

/// Sums (or means) of log-probabilities over each completion, `[sequences]`.
pub(super) fn completion_logprobs(graph: &mut Graph, logprobs: Value) -> Result<Value, ModelError> {
    let membership = input(graph, MEMBERSHIP, &[dims::SEQUENCES, dims::SELECTED]);
    let column = graph.unsqueeze(logprobs, -1)?;
    let sums = graph.matmul(membership, column)?;
    graph.squeeze(sums, -1)
}

/// max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε)) with ρ = exp(log π − log π_old): equation 7 of arXiv 1707.06347,
/// negated.
pub(super) fn clipped_policy_loss(graph: &mut Graph, logprobs: Value, dim: Dim) -> Result<Value, ModelError> {
    let old = input(graph, "old_logprobs", &[dim]);
    let advantages = input(graph, "advantages", &[dim]);
    let (low, high) = (input(graph, "ratio_min", &[]), input(graph, "ratio_max", &[]));
    let gain = graph.sub(logprobs, old)?;
    let ratio = graph.exp(gain);
    let at_least = graph.max(ratio, low)?;
    let clipped = graph.min(at_least, high)?;
    let disadvantages = graph.neg(advantages);
    let free = graph.mul(disadvantages, ratio)?;
    let bounded = graph.mul(disadvantages, clipped)?;
    graph.max(free, bounded)
}
