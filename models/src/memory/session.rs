//! The memory that an open session takes, apart from its runs.

use std::collections::{BTreeMap, BTreeSet};

use super::{MemoryPart, StepMemory};
use crate::checkpoint::Dtype;
use crate::onnx::graph::Graph;
use crate::onnx::op::Op;
use crate::onnx::value::{Dim, Source, Value};
use crate::start::Layout;

/// Bytes of a 32-bit number.
pub(crate) const FLOAT: usize = 4;
/// A packed matrix has a multiple of this many columns.
const PACKED_COLUMNS: usize = 16;
/// The share of converted weights that the heap takes in addition, as 1 / `HOLES`. A conversion leaves holes
/// of 0 to 18 % (measured with one model in several runs); the middle is counted.
const HOLES: usize = 11;
/// The bytes that the kernel maps around a byte of a file that is read (`fault_around_bytes`).
const MAPPED_AROUND: usize = 64 << 10;

/// Adds the memory of a session of this graph. `tokens` is the number of different tokens whose embeddings
/// are read. Returns the largest matrix that is mapped only while its packed copy is made, in bytes.
pub(crate) fn add_session(memory: &mut StepMemory, graph: &Graph, layout: Layout, tokens: usize) -> usize {
    let mut packed_from = 0;
    let weights = Weights::of(graph, layout);
    for (weight, uses) in &weights.uses {
        let bytes = FLOAT * elements(graph, *weight);
        if uses.packed {
            memory.add(MemoryPart::PackedWeights, packed_bytes(graph, *weight));
        }
        let is_converted = weights.converted.contains(weight);
        let resident = match uses {
            // Packing reads the whole table.
            Uses { read_whole: true, .. } | Uses { packed: true, rows: true, .. } => bytes,
            Uses { rows: true, .. } => bytes.min(tokens.saturating_mul(MAPPED_AROUND)),
            Uses { .. } => {
                packed_from = packed_from.max(if is_converted { 0 } else { bytes });
                continue;
            }
        };
        if is_converted {
            memory.add(MemoryPart::ConvertedWeights, bytes + bytes / HOLES);
        } else {
            memory.add(MemoryPart::MappedWeights, resident);
        }
    }
    memory.add(MemoryPart::Graphs, graph_bytes(graph));
    packed_from
}

/// The weights of a graph.
struct Weights {
    uses: BTreeMap<Value, Uses>,
    /// Weights that are stored in 16 bits and kept in 32.
    converted: BTreeSet<Value>,
}

/// The uses of one weight.
#[derive(Default)]
struct Uses {
    /// By a product, from a packed copy.
    packed: bool,
    /// From its first to its last element.
    read_whole: bool,
    /// By row.
    rows: bool,
}

impl Weights {
    fn of(graph: &Graph, layout: Layout) -> Self {
        let stored = |value: Value| match &graph.info(value).source {
            Source::Weight(tensor) => Some(tensor),
            Source::Input | Source::Constant(_) | Source::Bytes(_) | Source::Node => None,
        };
        let (mut uses, mut converted): (BTreeMap<Value, Uses>, _) = (BTreeMap::new(), BTreeSet::new());
        for node in graph.nodes() {
            if let (Op::Cast { .. }, [Some(input)], [Some(output)]) =
                (&node.op, &node.inputs[..], &node.outputs[..])
                && stored(*input).is_some_and(|tensor| tensor.dtype != Dtype::F32)
            {
                converted.insert(*output);
                continue;
            }
            for (slot, &input) in node.inputs.iter().enumerate() {
                let Some(input) =
                    input.filter(|&input| stored(input).is_some() || converted.contains(&input))
                else {
                    continue;
                };
                let uses = uses.entry(input).or_default();
                if matches!(node.op, Op::Linear | Op::MatMul { .. }) && slot == 1 && layout == Layout::Packed
                {
                    uses.packed = true;
                } else if node.op == Op::Gather && slot == 0 {
                    uses.rows = true;
                } else {
                    uses.read_whole = true;
                }
            }
        }
        Self { uses, converted }
    }
}

/// Bytes of the packed copy of a matrix.
fn packed_bytes(graph: &Graph, weight: Value) -> usize {
    let sizes: Vec<usize> = graph.info(weight).shape.iter().map(size).collect();
    match sizes[..] {
        [outputs, inputs] => FLOAT * outputs.div_ceil(PACKED_COLUMNS) * PACKED_COLUMNS * inputs,
        _ => 0,
    }
}

/// Bytes that a node takes in a session; measured.
const NODE: usize = 10_000;

/// Bytes of the graph itself: its constants, as ONNX Runtime and the serialised model hold them, and nodes.
fn graph_bytes(graph: &Graph) -> usize {
    let constants = graph.values().iter().map(|value| match &value.source {
        Source::Constant(bytes) => bytes.len(),
        Source::Input | Source::Weight(_) | Source::Bytes(_) | Source::Node => 0,
    });
    2 * constants.sum::<usize>() + NODE * graph.nodes().len()
}

fn elements(graph: &Graph, value: Value) -> usize {
    graph.info(value).shape.iter().map(size).product()
}

fn size(dim: &Dim) -> usize {
    match dim {
        Dim::Fixed(size) => *size,
        Dim::Named(_) => 0,
    }
}
