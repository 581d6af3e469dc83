//! The key-value cache of a session, and the graphs that move its rows on any processor.

use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, Tensor, TensorElementType};

use crate::arch::names;
use crate::checkpoint::{Dtype, ModelConfig};
use crate::error::ModelError;
use crate::onnx::export::export;
use crate::onnx::{Dim, ElementType, Graph};
use crate::runtime::OnnxRuntime;

use crate::start::{Layout, Processor, start};

/// The keys and values of some rows, with spare capacity, in the memory of the session's processor.
///
/// Each layer has two tensors `[rows, kv_heads, capacity, head_dim]`, which the attention operator extends in
/// place.
pub(crate) struct KvCache {
    pub(super) binding: IoBinding,
    layers: Vec<[DynTensor; 2]>,
    pub(super) rows: usize,
    capacity: usize,
    /// The output of the last run, in the memory of the CPU.
    pub(super) output: Option<Tensor<f32>>,
}

/// One row to copy from a cache to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowCopy {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The number of tokens that the row holds.
    pub(crate) tokens: usize,
}

impl KvCache {
    /// Makes a cache whose numbers are zero: rows are read up to their length only, but the rest must not be
    /// NaN.
    pub(super) fn new(
        mut binding: IoBinding,
        allocator: &Allocator,
        mover: Option<&mut RowMover>,
        config: &ModelConfig,
        dtype: Dtype,
        [rows, capacity]: [usize; 2],
    ) -> ort::Result<Self> {
        let shape = [rows, config.kv_heads, capacity, config.head_dim];
        let tensor = || DynTensor::new(allocator, tensor_type(dtype), shape);
        let mut layers = Vec::with_capacity(config.layers);
        for _ in 0..config.layers {
            layers.push([tensor()?, tensor()?]);
        }
        match mover {
            Some(mover) => mover.clear(&mut layers, shape)?,
            None => {
                for tensor in layers.as_flattened_mut() {
                    tensor.try_extract_tensor_mut::<f32>()?.1.fill(0.0);
                }
            }
        }
        for (layer, tensors) in layers.iter_mut().enumerate() {
            for (tensor, (past, present)) in
                tensors.iter_mut().zip(names::past(layer).iter().zip(names::present(layer)))
            {
                binding.bind_input(past, tensor)?;
                binding.bind_output(present, tensor)?;
            }
        }
        Ok(Self { binding, layers, rows, capacity, output: None })
    }

    /// Returns the number of tokens that a row can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies rows of 32-bit floats in the memory of the CPU.
    pub(super) fn copy_rows(&mut self, from: &Self, copies: &[RowCopy]) -> ort::Result<()> {
        for (to, source) in self.layers.as_flattened_mut().iter_mut().zip(from.layers.as_flattened()) {
            let (shape, source) = source.try_extract_tensor::<f32>()?;
            let (heads, width) = (size(shape[1]), size(shape[3]));
            let (_, target) = to.try_extract_tensor_mut::<f32>()?;
            for &RowCopy { from: from_row, to: row, tokens } in copies {
                for head in 0..heads {
                    let source_start = (from_row * heads + head) * from.capacity * width;
                    let target_start = (row * heads + head) * self.capacity * width;
                    let length = tokens * width;
                    target[target_start..target_start + length]
                        .copy_from_slice(&source[source_start..source_start + length]);
                }
            }
        }
        Ok(())
    }
}

pub(super) fn size(dim: i64) -> usize {
    usize::try_from(dim).unwrap_or(0)
}

fn tensor_type(dtype: Dtype) -> TensorElementType {
    match dtype {
        Dtype::F32 => TensorElementType::Float32,
        Dtype::F16 => TensorElementType::Float16,
        Dtype::BF16 => TensorElementType::Bfloat16,
    }
}

/// Clears caches and copies whole rows between them, without a detour through the memory of the CPU.
pub(super) struct RowMover {
    clear: Session,
    copy: Session,
}

/// The inputs and outputs of the mover's graphs.
mod moves {
    pub(super) const SHAPE: &str = "shape";
    pub(super) const FROM_ROWS: &str = "from_rows";
    pub(super) const TO_ROWS: &str = "to_rows";

    pub(super) fn name(what: &str, tensor: usize) -> String {
        format!("{what}.{tensor}")
    }
}

impl RowMover {
    pub(super) fn new(
        runtime: &OnnxRuntime,
        config: &ModelConfig,
        dtype: Dtype,
        processor: Processor,
    ) -> Result<Self, ModelError> {
        let open = |graph: Graph| {
            start(runtime, &export(&graph)?, Layout::InPlace, processor, 1).map_err(|error| {
                ModelError::Runtime(format!("failed to start a session that moves cache rows: {error}"))
            })
        };
        Ok(Self {
            clear: open(clear_graph(config, dtype.into())?)?,
            copy: open(copy_graph(config, dtype.into())?)?,
        })
    }

    fn clear(&mut self, layers: &mut [[DynTensor; 2]], shape: [usize; 4]) -> ort::Result<()> {
        let mut binding = self.clear.create_binding()?;
        let shape: Vec<i64> = shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        binding.bind_input(moves::SHAPE, &Tensor::from_array(([shape.len()], shape))?)?;
        for (index, tensor) in layers.as_flattened_mut().iter_mut().enumerate() {
            binding.bind_output(moves::name("zeros", index), tensor)?;
        }
        self.clear.run_binding(&binding)?;
        Ok(())
    }

    /// Copies whole rows. Both caches must have the same capacity.
    pub(super) fn copy_rows(
        &mut self,
        to: &mut KvCache,
        from: &KvCache,
        copies: &[RowCopy],
    ) -> ort::Result<()> {
        let mut binding = self.copy.create_binding()?;
        let rows = |row: &dyn Fn(&RowCopy) -> usize| -> Vec<i64> {
            copies.iter().map(|copy| i64::try_from(row(copy)).unwrap_or(i64::MAX)).collect()
        };
        let (from_rows, to_rows) = (rows(&|copy| copy.from), rows(&|copy| copy.to));
        binding.bind_input(moves::FROM_ROWS, &Tensor::from_array(([copies.len()], from_rows))?)?;
        binding.bind_input(moves::TO_ROWS, &Tensor::from_array(([copies.len(), 1], to_rows))?)?;
        let pairs = to.layers.as_flattened_mut().iter_mut().zip(from.layers.as_flattened());
        for (index, (to, from)) in pairs.enumerate() {
            binding.bind_input(moves::name("from", index), from)?;
            binding.bind_input(moves::name("to", index), to)?;
            binding.bind_output(moves::name("moved", index), to)?;
        }
        self.copy.run_binding(&binding)?;
        Ok(())
    }
}

fn cache_shape(config: &ModelConfig, rows: &'static str) -> Vec<Dim> {
    vec![Dim::Named(rows), Dim::Fixed(config.kv_heads), Dim::Named("capacity"), Dim::Fixed(config.head_dim)]
}

/// shape `[4]` → zeros of that shape, for each tensor of a cache.
fn clear_graph(config: &ModelConfig, element: ElementType) -> Result<Graph, ModelError> {
    let mut graph = Graph::new();
    let shape = graph.input(moves::SHAPE, ElementType::I64, vec![Dim::Fixed(4)]);
    let zero = graph.constant_scalar(0.0);
    let zero = graph.cast(zero, element);
    for tensor in 0..2 * config.layers {
        let zeros = graph.expand_to(zero, shape, cache_shape(config, "rows"));
        graph.output(zeros, &moves::name("zeros", tensor));
    }
    Ok(graph)
}

/// from, to → to with the rows `to_rows [n, 1]` replaced by the rows `from_rows [n]` of from, for each tensor
/// of a cache.
fn copy_graph(config: &ModelConfig, element: ElementType) -> Result<Graph, ModelError> {
    let mut graph = Graph::new();
    let moved = Dim::Named("moved");
    let from_rows = graph.input(moves::FROM_ROWS, ElementType::I64, vec![moved]);
    let to_rows = graph.input(moves::TO_ROWS, ElementType::I64, vec![moved, Dim::Fixed(1)]);
    for tensor in 0..2 * config.layers {
        let from = graph.input(moves::name("from", tensor), element, cache_shape(config, "rows"));
        let to = graph.input(moves::name("to", tensor), element, cache_shape(config, "target_rows"));
        let rows = graph.gather(from, from_rows);
        let moved = graph.replace_rows(to, to_rows, rows);
        graph.output(moved, &moves::name("moved", tensor));
    }
    Ok(graph)
}
