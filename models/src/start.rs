//! Starts sessions of ONNX Runtime on a processor.

use ort::ep::{CUDA, ExecutionProvider as _};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::arch::AdapterPlace;
use crate::onnx::export::ExportedModel;
use crate::runtime::OnnxRuntime;

/// The processor on which a session runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processor {
    Cpu,
    Cuda { device: i32 },
}

impl Processor {
    /// Returns the allocator of a session's tensors on this processor.
    pub(crate) fn allocator(self, session: &Session) -> ort::Result<Allocator> {
        match self {
            Self::Cpu => Ok(Allocator::default()),
            Self::Cuda { device } => {
                let memory = MemoryInfo::new(
                    AllocationDevice::CUDA,
                    device,
                    AllocatorType::Device,
                    MemoryType::Default,
                )?;
                Allocator::new(session, memory)
            }
        }
    }
}

/// The memory layout of a session's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// A copy in the fastest layout, which needs the size of the weights in memory.
    Packed,
    /// The weights in their file, mapped into memory.
    InPlace,
    /// As [`Layout::InPlace`], for graphs with large values and changing shapes: memory is freed as soon as a
    /// value is no longer needed.
    Training {
        /// Whether the graph recomputes values on purpose.
        recompute: bool,
    },
}

impl Layout {
    /// Returns the place of adapter weights in the graph.
    ///
    /// Packed products give a row the same bits for any number of rows. Products with inputs do not: a single
    /// row takes another code path, and the split of sums depends on the number of threads.
    pub(crate) fn adapter_place(self) -> AdapterPlace {
        match self {
            Self::Packed => AdapterPlace::Constants,
            Self::InPlace | Self::Training { .. } => AdapterPlace::Inputs,
        }
    }
}

/// Starts a session of a graph. On a GPU, every operator must have a kernel there.
pub(crate) fn start(
    runtime: &OnnxRuntime,
    model: &ExportedModel,
    layout: Layout,
    processor: Processor,
    threads: usize,
) -> Result<Session, String> {
    let builder = configure(runtime, model, layout, threads)?;
    let mut builder = match processor {
        Processor::Cpu => builder,
        Processor::Cuda { device } => with_cuda(builder, device)?,
    };
    builder.commit_from_memory(&model.bytes).map_err(|error| match error.to_string() {
        reason if reason.contains("assigned to the default CPU EP") => {
            format!("a part of the graph has no CUDA kernel: use --provider cpu ({reason})")
        }
        reason => reason,
    })
}

/// Adds CUDA. Operators that would run on the CPU are an error: each of them would copy its operands between
/// the processors in every run.
fn with_cuda(builder: SessionBuilder, device: i32) -> Result<SessionBuilder, String> {
    if !CUDA::is_available().unwrap_or(false) {
        return Err(
            "this ONNX Runtime has no CUDA: install onnxruntime-gpu and name its library, or use provider cpu"
                .to_owned(),
        );
    }
    let cuda = CUDA::default().with_device_id(device).build().error_on_failure();
    builder
        .with_execution_providers([cuda])
        .and_then(SessionBuilder::with_disable_cpu_fallback)
        .map_err(|error| {
            format!(
                "CUDA cannot be used ({error}): it needs an NVIDIA GPU, its driver and the CUDA 13 and cuDNN libraries"
            )
        })
}

fn configure(
    runtime: &OnnxRuntime,
    model: &ExportedModel,
    layout: Layout,
    threads: usize,
) -> Result<SessionBuilder, String> {
    let text = |error: ort::Error<SessionBuilder>| error.to_string();
    let mut builder = Session::builder(runtime.environment())
        .map_err(|error| error.to_string())?
        .with_optimization_level(GraphOptimizationLevel::Level1)
        .map_err(text)?
        .with_intra_threads(threads)
        .map_err(text)?
        .with_prepacking(layout == Layout::Packed)
        .map_err(text)?;
    if let Layout::Training { recompute } = layout {
        builder = builder.with_memory_pattern(false).map_err(text)?;
        if recompute {
            builder = builder.with_disabled_optimizers("CommonSubexpressionElimination").map_err(text)?;
        }
    }
    if let Some(dir) = &model.weights_dir {
        let dir = dir.to_str().ok_or_else(|| format!("{} is not UTF-8", dir.display()))?;
        builder = builder
            .with_config_entry("session.model_external_initializers_file_folder_path", dir)
            .map_err(text)?;
    }
    Ok(builder)
}
