//! Chooses the processor on which a session runs, and the type of numbers that it computes with.

use std::collections::BTreeMap;
use std::sync::{Mutex, Once, PoisonError};

use crate::checkpoint::decoder::Norm;
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::{InvalidKind, ModelError};
use crate::onnx::export::export;
use crate::onnx::{Dim, ElementType, Graph};
use crate::runtime::{ComputeType, OnnxRuntime, Provider, SessionOptions};
use crate::start::{Layout, Processor, start};

impl Processor {
    /// Returns the processor that the options ask for. An error if they ask for a GPU that does not work.
    pub(crate) fn of(runtime: &OnnxRuntime, options: &SessionOptions) -> Result<Self, String> {
        let cuda = Self::Cuda { device: i32::try_from(options.device).unwrap_or(i32::MAX) };
        match options.provider {
            Provider::Cpu => Ok(Self::Cpu),
            Provider::Cuda => cuda.check(runtime).map(|()| cuda),
            Provider::Auto => {
                static SAID: Once = Once::new();
                let checked = cuda.check(runtime);
                SAID.call_once(|| match &checked {
                    Ok(()) => tracing::info!(provider = "cuda", "chose execution provider"),
                    Err(reason) => tracing::info!(provider = "cpu", reason, "chose execution provider"),
                });
                Ok(checked.map_or(Self::Cpu, |()| cuda))
            }
        }
    }

    /// Runs the smallest possible graph on the processor, once per process.
    fn check(self, runtime: &OnnxRuntime) -> Result<(), String> {
        static CHECKED: Mutex<BTreeMap<i32, Result<(), String>>> = Mutex::new(BTreeMap::new());
        let Self::Cuda { device } = self else { return Ok(()) };
        let mut checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
        let check = || {
            let mut graph = Graph::new();
            let x = graph.input("x", ElementType::F32, vec![Dim::Fixed(1)]);
            let y = graph.neg(x);
            graph.output(y, "y");
            let model = export(&graph).map_err(|error| error.to_string())?;
            start(runtime, &model, Layout::InPlace, self, 1)
                .map(drop)
                .map_err(|error| format!("CUDA device {device} cannot be used: {error}"))
        };
        checked.entry(device).or_insert_with(check).clone()
    }
}

impl ComputeType {
    /// Returns the type in which a model generates and scores.
    ///
    /// On a GPU, `auto` is bf16 for a checkpoint of bf16 and f16 otherwise. The norms of Gemma make numbers
    /// beyond f16, so these families have bf16.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for a type that the processor does not have, or that the model's numbers
    /// exceed.
    pub(crate) fn for_inference(
        self,
        processor: Processor,
        checkpoint: &Checkpoint,
    ) -> Result<Dtype, ModelError> {
        let exceeds_f16 = checkpoint.config.decoder.norm == Norm::RmsPlusOne;
        match (self, processor) {
            (Self::Auto | Self::F32, Processor::Cpu) => Ok(Dtype::F32),
            (Self::Bf16, Processor::Cpu) => Err(no_bf16()),
            (Self::F16, _) if exceeds_f16 => Err(unsupported(
                "the hidden states of this family exceed the range of f16: use --dtype bf16 or auto",
            )),
            (Self::F16, _) => Ok(Dtype::F16),
            (Self::Bf16, Processor::Cuda { .. }) => Ok(Dtype::BF16),
            (Self::Auto, Processor::Cuda { .. }) => {
                let bf16 = exceeds_f16 || stored(checkpoint)? == Dtype::BF16;
                Ok(if bf16 { Dtype::BF16 } else { Dtype::F16 })
            }
            (Self::F32, Processor::Cuda { .. }) => Err(unsupported(
                "attention has no kernel for f32 on CUDA: use --dtype bf16 or f16, or --provider cpu",
            )),
        }
    }

    /// Returns the type of the matrix products of a training. On a GPU, `auto` is bf16 for a checkpoint of
    /// bf16 and f32 otherwise. f16 is too narrow for gradients: it is f32.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for a type that the processor does not have.
    pub(crate) fn for_training(
        self,
        processor: Processor,
        checkpoint: &Checkpoint,
    ) -> Result<Dtype, ModelError> {
        match (self, processor) {
            (Self::Bf16, Processor::Cpu) => Err(no_bf16()),
            (Self::Bf16, Processor::Cuda { .. }) => Ok(Dtype::BF16),
            (Self::Auto, Processor::Cuda { .. }) if stored(checkpoint)? == Dtype::BF16 => Ok(Dtype::BF16),
            (Self::Auto | Self::F32 | Self::F16, _) => Ok(Dtype::F32),
        }
    }
}

/// Returns the processor of a model that generates or scores, and the type of numbers that it computes with.
///
/// # Errors
/// As [`ComputeType::for_inference`], and [`ModelError::Runtime`] if the processor does not work.
pub(crate) fn for_inference(
    runtime: &OnnxRuntime,
    checkpoint: &Checkpoint,
    options: &SessionOptions,
) -> Result<(Processor, Dtype), ModelError> {
    if checkpoint.weights.packed_count() > 0 {
        return for_packed(options);
    }
    let processor = Processor::of(runtime, options).map_err(ModelError::Runtime)?;
    Ok((processor, options.dtype.for_inference(processor, checkpoint)?))
}

/// Returns the processor of packed weights, and the type of the numbers around their products: the CPU and 32
/// bits.
fn for_packed(options: &SessionOptions) -> Result<(Processor, Dtype), ModelError> {
    match (options.provider, options.dtype) {
        (Provider::Cuda, _) => {
            Err(unsupported("packed weights run on the CPU only: use weights f32, or --provider cpu"))
        }
        (_, ComputeType::Bf16 | ComputeType::F16) => {
            Err(unsupported("packed weights are computed with in f32: use --dtype auto, or weights f32"))
        }
        (Provider::Cpu | Provider::Auto, ComputeType::Auto | ComputeType::F32) => {
            Ok((Processor::Cpu, Dtype::F32))
        }
    }
}

/// Returns the processor of a training, and the type of its matrix products.
///
/// # Errors
/// As [`ComputeType::for_training`], and [`ModelError::Runtime`] if the processor does not work.
pub(crate) fn for_training(
    runtime: &OnnxRuntime,
    checkpoint: &Checkpoint,
    options: &SessionOptions,
) -> Result<(Processor, Dtype), ModelError> {
    let processor = Processor::of(runtime, options).map_err(ModelError::Runtime)?;
    Ok((processor, options.dtype.for_training(processor, checkpoint)?))
}

/// Whether a GPU of this index, from 0, runs models.
///
/// # Errors
/// [`ModelError::Runtime`] with the missing part.
pub fn check_cuda(runtime: &OnnxRuntime, device: u32) -> Result<(), ModelError> {
    let options = SessionOptions { provider: Provider::Cuda, device, ..SessionOptions::default() };
    Processor::of(runtime, &options).map(drop).map_err(ModelError::Runtime)
}

fn no_bf16() -> ModelError {
    unsupported("the CPU has no bf16: use --dtype auto, or --provider cuda")
}

/// Returns the type of most weights: that of the embeddings.
fn stored(checkpoint: &Checkpoint) -> Result<Dtype, ModelError> {
    Ok(checkpoint.weights.get(&checkpoint.config.embedding())?.dtype)
}

fn unsupported(reason: &str) -> ModelError {
    ModelError::invalid(InvalidKind::Unsupported, reason)
}
