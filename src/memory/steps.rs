//! The memory of single steps, by the options of a command.

use dissent_models::ModelError;
use dissent_models::memory::{self, Decoding};
use dissent_models::training::memory as training_memory;
use dissent_models::training::{TrainingData, TrainingSetup};
use dissent_models::tuning::{TuningSettings, memory as tuning_memory};

use super::StepForecast;
use crate::experiment::models::Model;

const FEWER_ROWS: &str =
    "use fewer samples or prompts at once, a lower maximum of new tokens, or a smaller model";
const SMALLER_MODEL: &str = "use a smaller model, fewer layers of it, or shorter texts";
const SMALLER_BATCHES: &str = "use recompute, a smaller batch size with more gradient accumulation, a lower maximum length, fewer layers, or CUDA";

/// Returns the memory of generation.
pub(crate) fn generation(model: &Model, decoding: Decoding) -> Result<StepForecast, ModelError> {
    let memory = memory::generation(&model.checkpoint, model.adapter.as_ref(), decoding)?;
    Ok(StepForecast::new("generation", memory, FEWER_ROWS))
}

/// Returns the memory of log-probabilities of given completions.
pub(crate) fn policy_scoring(model: &Model, decoding: Decoding) -> Result<StepForecast, ModelError> {
    let memory = memory::policy_scoring(&model.checkpoint, model.adapter.as_ref(), decoding)?;
    Ok(StepForecast::new("log-probabilities", memory, SMALLER_MODEL))
}

/// Returns the memory of a reward model.
pub(crate) fn reward_scoring(
    step: &str,
    model: &Model,
    decoding: Decoding,
) -> Result<StepForecast, ModelError> {
    let memory = memory::reward_scoring(&model.checkpoint, model.adapter.as_ref(), decoding)?;
    Ok(StepForecast::new(step, memory, SMALLER_MODEL))
}

/// Returns the memory of a training on these examples.
pub(crate) fn training(
    model: &Model,
    setup: &TrainingSetup,
    data: &TrainingData,
) -> Result<StepForecast, ModelError> {
    let memory = training_memory::trainer(&model.checkpoint, model.adapter.as_ref(), setup, data)?;
    Ok(StepForecast::new("training", memory, SMALLER_BATCHES))
}

/// Returns the memory of a tuning that samples while it trains.
pub(crate) fn tuning(
    model: &Model,
    settings: &TuningSettings,
    decoding: Decoding,
) -> Result<StepForecast, ModelError> {
    let memory = tuning_memory::tuner(&model.checkpoint, model.adapter.as_ref(), settings, decoding)?;
    Ok(StepForecast::new("tuning", memory, SMALLER_BATCHES))
}

/// Returns the memory of a training whose micro-batches are at most of this shape.
pub(crate) fn training_of_shape(
    step: &str,
    model: &Model,
    setup: &TrainingSetup,
    batch: training_memory::BatchShape,
) -> Result<StepForecast, ModelError> {
    let memory = training_memory::trainer_of_shape(&model.checkpoint, model.adapter.as_ref(), setup, batch)?;
    Ok(StepForecast::new(step, memory, SMALLER_BATCHES))
}
