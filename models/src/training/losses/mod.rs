//! The losses, as graphs over the outputs of a model's head. Each file states its formula and its source.
//!
//! Weights and normalisers are inputs, so the gradients of micro-batches add up to the gradient of the whole
//! step. A mean over N pairs is a weight of 1/N per pair. All logarithms are natural.
//!
//! Losses of pairs read sequences in this order: the preferred (or less safe) completions of all pairs, then
//! the others, pair by pair.

mod bradley_terry;
mod cost;
mod dpo;
mod grpo;
mod inputs;
mod ppo;
mod rloo;
mod sft;
mod terms;

use dissent_domain::training::DpoLoss;

use crate::error::{InvalidKind, ModelError};
use crate::onnx::Graph;

use super::forward::HeadOutputs;
use super::packing::PackedBatch;
use super::spec::Loss;

use inputs::{clip_range, scalar, vector};
use terms::MEMBERSHIP;

pub(super) use inputs::Feed;
pub use inputs::LossInputs;
pub use ppo::{PpoReport, ppo_report};
pub(super) use terms::LossValue;

/// Returns the log-probability of each completion from those of its tokens, in the form of the loss: sums, or
/// means for IPO (as in TRL).
#[must_use]
pub fn sequence_logprobs(loss: Loss, batch: &PackedBatch, logprobs: &[f32]) -> Vec<f32> {
    let of_sequence = |logprobs: &[f32]| {
        let sum: f64 = logprobs.iter().map(|&logprob| f64::from(logprob)).sum();
        let logprob = if takes_means(loss) { sum / logprobs.len().max(1) as f64 } else { sum };
        #[expect(clippy::cast_possible_truncation, reason = "losses are computed in 32 bits")]
        let logprob = logprob as f32;
        logprob
    };
    batch.by_sequence(logprobs).map(of_sequence).collect()
}

/// Whether the loss uses means of log-probabilities over tokens instead of sums.
fn takes_means(loss: Loss) -> bool {
    matches!(loss, Loss::Dpo(DpoLoss::Ipo))
}

/// Adds a loss and its inputs to a graph.
pub(super) fn loss_value(
    graph: &mut Graph,
    loss: Loss,
    outputs: &HeadOutputs,
) -> Result<LossValue, ModelError> {
    match loss {
        Loss::Sft => sft::loss(graph, outputs),
        Loss::BradleyTerry => bradley_terry::loss(graph, outputs),
        Loss::Cost => cost::loss(graph, outputs),
        Loss::Dpo(kind) => dpo::loss(graph, outputs, kind),
        Loss::Ppo => ppo::loss(graph, outputs),
        Loss::Grpo => grpo::loss(graph, outputs),
        Loss::Rloo => rloo::loss(graph, outputs),
    }
}

/// Returns the numbers for the inputs that [`loss_value`] added.
///
/// # Errors
/// [`ModelError::Invalid`] if they belong to another loss, or if their lengths do not match the batch.
pub(super) fn feeds(loss: Loss, batch: &PackedBatch, inputs: &LossInputs) -> Result<Vec<Feed>, ModelError> {
    let mut feeds = match (loss, inputs) {
        (Loss::Sft, LossInputs::Sft { weights }) => vec![vector("weights", weights)],
        (Loss::BradleyTerry, LossInputs::BradleyTerry { margins, weights, center }) => {
            vec![vector("margins", margins), vector("weights", weights), scalar("center", *center)]
        }
        (Loss::Cost, LossInputs::Cost { signs, weights }) => {
            vec![vector("signs", signs), vector("weights", weights)]
        }
        (Loss::Dpo(kind), LossInputs::Dpo { reference, weights, beta, linear }) => {
            let mut feeds = vec![vector("reference", reference), vector("weights", weights)];
            feeds.extend(dpo::scalars(kind, *beta, *linear));
            feeds
        }
        (Loss::Ppo, LossInputs::Ppo { .. }) => ppo::feeds(inputs),
        (Loss::Grpo, LossInputs::Grpo { .. }) => grpo::feeds(inputs),
        (Loss::Rloo, LossInputs::Rloo { old_logprobs, advantages, weights, clip }) => {
            let mut feeds = vec![
                vector("old_logprobs", old_logprobs),
                vector("advantages", advantages),
                vector("weights", weights),
            ];
            feeds.extend(clip_range(*clip));
            feeds
        }
        (
            Loss::Sft | Loss::BradleyTerry | Loss::Cost | Loss::Dpo(_) | Loss::Ppo | Loss::Grpo | Loss::Rloo,
            _,
        ) => {
            return Err(ModelError::invalid(
                InvalidKind::Data,
                format!("{loss:?} got the inputs of another loss"),
            ));
        }
    };
    check_lengths(loss, batch, &feeds)?;
    if works_on_completions(loss) {
        let shape = vec![batch.sequences(), batch.selected()];
        feeds.push(Feed { name: MEMBERSHIP, shape, numbers: batch.membership(takes_means(loss)) });
    }
    Ok(feeds)
}

fn works_on_completions(loss: Loss) -> bool {
    match loss {
        Loss::Dpo(_) | Loss::Rloo => true,
        Loss::Sft | Loss::BradleyTerry | Loss::Cost | Loss::Ppo | Loss::Grpo => false,
    }
}

fn check_lengths(loss: Loss, batch: &PackedBatch, feeds: &[Feed]) -> Result<(), ModelError> {
    let pairs = batch.sequences() / 2;
    if matches!(loss, Loss::BradleyTerry | Loss::Cost | Loss::Dpo(_)) && batch.sequences() != 2 * pairs {
        return Err(ModelError::invalid(
            InvalidKind::Data,
            format!("{} sequences are not pairs", batch.sequences()),
        ));
    }
    for Feed { name, shape, numbers } in feeds {
        let expected = match (loss, *name) {
            _ if shape.is_empty() => 1,
            (Loss::BradleyTerry | Loss::Cost | Loss::Dpo(_), "margins" | "weights") => pairs,
            (Loss::Cost | Loss::Dpo(_) | Loss::Rloo, _) => batch.sequences(),
            (Loss::Sft | Loss::BradleyTerry | Loss::Ppo | Loss::Grpo, _) => batch.selected(),
        };
        if numbers.len() != expected {
            return Err(ModelError::invalid(
                InvalidKind::ShapeMismatch,
                format!("{} {name} do not fit a batch that needs {expected}", numbers.len()),
            ));
        }
        if numbers.iter().any(|number| number.is_nan()) {
            return Err(ModelError::invalid(InvalidKind::NotFinite, format!("an element of {name} is NaN")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
