//! The memory of a tuning that samples while it trains, predicted before anything is loaded.

use super::method::Method;
use super::tuner::TuningSettings;
use crate::adapter::LoraAdapter;
use crate::checkpoint::Checkpoint;
use crate::error::ModelError;
use crate::memory::{Decoding, StepMemory, generation};
use crate::training::memory::{Sessions, largest_batch, predicted};
use crate::training::{LoraPlan, PositionReport, StepSpec, Trainable};

/// Predicts the memory of [`super::LoraPolicy`]: its step, its evaluation of policy and reference, and its
/// generator. Micro-batches are as large as the settings and `decoding` allow.
///
/// # Errors
/// [`ModelError::Invalid`] for settings that the tuning would refuse.
pub fn tuner(
    checkpoint: &Checkpoint,
    from: Option<&LoraAdapter>,
    settings: &TuningSettings,
    decoding: Decoding,
) -> Result<StepMemory, ModelError> {
    let (loss, training) = (Method::try_from(settings.objective.method)?.loss(), &settings.training);
    let plan = match from {
        Some(adapter) => LoraPlan::of_adapter(adapter),
        None => LoraPlan::new(&checkpoint.config, &training.lora.clone().unwrap_or_default())?,
    };
    let spec = StepSpec { trainable: Trainable::Lora(plan), loss, recompute: training.recompute };
    let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX).max(1);
    let longest = (decoding.prompt + decoding.completion).min(size(training.max_length));
    let read = decoding.completion.min(longest);
    let batch = largest_batch(loss.head(), size(training.batch_size), longest, read);
    let sessions = Sessions { spec, reference: Some(PositionReport::default()) };
    let trained = predicted(checkpoint, &sessions, &[batch], decoding.distinct_tokens)?;
    Ok(trained.and(&generation(checkpoint, from, decoding)?))
}
