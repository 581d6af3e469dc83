//! The assignment of values to buffers, and the time at which each buffer becomes free.
//!
//! It follows `PlannerImpl` in onnxruntime/core/framework/allocation_planner.cc. An operator that moves no
//! data shares the buffer of its operand, and some operators overwrite their operand. A later value of the
//! same shape takes over a free buffer. A buffer is kept from its first value to its last.

use std::collections::{BTreeMap, BTreeSet};

use crate::onnx::graph::{Graph, Node};
use crate::onnx::op::Op;
use crate::onnx::value::{Dim, ElementType, Source, Value};

/// The buffers of the values of a graph.
pub(super) struct Buffers {
    /// The value whose buffer a value shares, itself included.
    pub(super) owner: BTreeMap<Value, Value>,
    /// The owners whose buffers become free after a node, by the node's place in the order.
    pub(super) released: Vec<Vec<Value>>,
    /// The nodes that are computed when a session starts, because they depend on constants only.
    pub(super) folded: BTreeSet<usize>,
}

impl Buffers {
    pub(super) fn plan(graph: &Graph, order: &[usize]) -> Self {
        let mut planner = Planner::new(graph, order);
        for index in order {
            if !planner.folded.contains(index) {
                planner.place(&graph.nodes()[*index]);
            }
        }
        let Planner { owner, folded, outputs, .. } = planner;
        let mut last_use = BTreeMap::new();
        for (time, index) in order.iter().enumerate().filter(|(_, index)| !folded.contains(index)) {
            for value in graph.nodes()[*index].inputs.iter().flatten() {
                last_use.insert(owner.get(value).copied().unwrap_or(*value), time);
            }
        }
        let mut released = vec![Vec::new(); order.len()];
        for (value, time) in last_use {
            let is_made = owner.get(&value) == Some(&value);
            if is_made && !outputs.contains(&value) {
                released[time].push(value);
            }
        }
        Self { owner, released, folded }
    }
}

/// The plan under construction.
struct Planner<'g> {
    graph: &'g Graph,
    owner: BTreeMap<Value, Value>,
    /// Uses that are left of each buffer, by its owner.
    uses: BTreeMap<Value, usize>,
    /// Free buffers, the last freed one first.
    free: Vec<Value>,
    folded: BTreeSet<usize>,
    outputs: BTreeSet<Value>,
    /// For each value and axis, whether ONNX Runtime knows the name of its size.
    known: BTreeMap<Value, Vec<bool>>,
}

impl<'g> Planner<'g> {
    fn new(graph: &'g Graph, order: &[usize]) -> Self {
        let outputs: BTreeSet<Value> = graph.outputs().iter().copied().collect();
        let (mut uses, mut known): (BTreeMap<Value, usize>, _) = (BTreeMap::new(), BTreeMap::new());
        let mut constant = BTreeSet::new();
        for (index, info) in graph.values().iter().enumerate() {
            if info.source != Source::Node {
                // Inputs and constants are never free.
                uses.insert(Value::new(index), 1);
                known.insert(Value::new(index), vec![true; info.shape.len()]);
            }
            if matches!(info.source, Source::Constant(_) | Source::Weight(_) | Source::Bytes(_)) {
                constant.insert(Value::new(index));
            }
        }
        let mut folded = BTreeSet::new();
        for &index in order {
            let node = &graph.nodes()[index];
            let results = || node.outputs.iter().flatten();
            if node.inputs.iter().flatten().all(|input| constant.contains(input))
                && !results().any(|output| outputs.contains(output))
            {
                folded.insert(index);
                constant.extend(results());
                known.extend(results().map(|&output| (output, vec![true; graph.info(output).shape.len()])));
                continue;
            }
            for &value in node.inputs.iter().flatten().chain(results()) {
                *uses.entry(value).or_default() += 1;
            }
        }
        for &output in &outputs {
            *uses.entry(output).or_default() += 1;
        }
        for &value in &constant {
            *uses.entry(value).or_default() += 1;
        }
        Self { graph, owner: BTreeMap::new(), uses, free: Vec::new(), folded, outputs, known }
    }

    /// Assigns buffers to the results of the next node.
    fn place(&mut self, node: &Node) {
        for (slot, &output) in node.outputs.iter().enumerate() {
            let Some(output) = output else { continue };
            let known = self.known_axes(node, output);
            self.known.insert(output, known);
            let shared = if self.outputs.contains(&output) {
                None
            } else {
                self.shared_operand(node, slot, output).or_else(|| self.take_free(output))
            };
            let owner = shared.unwrap_or(output);
            self.owner.insert(output, owner);
            if owner != output {
                let more = self.uses.get(&output).copied().unwrap_or(0);
                *self.uses.entry(owner).or_default() += more;
            }
        }
        for &value in node.inputs.iter().chain(&node.outputs).flatten() {
            let owner = self.owner_of(value);
            let left = self.uses.entry(owner).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.free.insert(0, owner);
            }
        }
    }

    fn owner_of(&self, value: Value) -> Value {
        self.owner.get(&value).copied().unwrap_or(value)
    }

    /// Returns the owner of the operand whose buffer a result shares.
    fn shared_operand(&self, node: &Node, slot: usize, output: Value) -> Option<Value> {
        let operand = (*node.inputs.first()?).filter(|_| slot == 0)?;
        let owner = self.owner_of(operand);
        let is_last = self.uses.get(&owner) == Some(&1) && self.same_size(operand, output);
        match reuse(&node.op) {
            Reuse::Shares => Some(owner),
            Reuse::MayOverwrite if is_last => Some(owner),
            Reuse::MayOverwrite | Reuse::Nothing => None,
        }
    }

    /// Takes the last freed buffer of the same shape.
    fn take_free(&mut self, output: Value) -> Option<Value> {
        if self.graph.info(output).shape.is_empty() {
            return None;
        }
        let place = self.free.iter().position(|&value| self.same_size(value, output))?;
        Some(self.free.remove(place))
    }

    /// Whether ONNX Runtime can tell that two values have the same number of bytes.
    fn same_size(&self, left: Value, right: Value) -> bool {
        let (a, b) = (self.graph.info(left), self.graph.info(right));
        let no_names = Vec::new();
        let known = |value| self.known.get(&value).unwrap_or(&no_names);
        let sizes = a.shape.iter().zip(&b.shape).zip(known(left).iter().zip(known(right)));
        element_bytes(a.element) == element_bytes(b.element)
            && a.shape.len() == b.shape.len()
            && sizes.into_iter().all(|((a, b), (&known_a, &known_b))| match (a, b) {
                (Dim::Fixed(a), Dim::Fixed(b)) => a == b,
                (Dim::Named(a), Dim::Named(b)) => known_a && known_b && a == b,
                (Dim::Fixed(_), Dim::Named(_)) | (Dim::Named(_), Dim::Fixed(_)) => false,
            })
    }

    /// Returns the axes of a result whose sizes ONNX Runtime knows, by name or number. It does not name a
    /// size that a reshape infers, nor one that a broadcast takes from an operand without the name.
    fn known_axes(&self, node: &Node, output: Value) -> Vec<bool> {
        let axes = self.graph.info(output).shape.iter().enumerate();
        axes.map(|(axis, dim)| match (dim, &node.op) {
            (_, Op::ReshapeTo) => false,
            (Dim::Fixed(_), _) => true,
            (Dim::Named(_), Op::Reshape { shape }) => {
                shape.get(axis) == Some(&0) && self.knows(&node.inputs[..1], dim) == Some(true)
            }
            (Dim::Named(_), Op::Gather | Op::GatherPaired { .. }) => {
                node.inputs.chunks(1).any(|input| self.knows(input, dim) == Some(true))
            }
            (Dim::Named(_), Op::GatherElements) => self.knows(&node.inputs[1..2], dim) == Some(true),
            (Dim::Named(_), op) => {
                let read = if broadcasts(op) { node.inputs.len() } else { 1 };
                self.knows(&node.inputs[..read.min(node.inputs.len())], dim) == Some(true)
            }
        })
        .collect()
    }

    /// Whether every operand with an axis of this size has it by name; `None` if there is no such axis.
    fn knows(&self, operands: &[Option<Value>], dim: &Dim) -> Option<bool> {
        let axes = operands.iter().flatten().flat_map(|operand| {
            let known = self.known.get(operand).map_or(&[][..], Vec::as_slice);
            let axes = self.graph.info(*operand).shape.iter().zip(known);
            axes.filter(|(other, _)| *other == dim).map(|(_, &known)| known)
        });
        axes.reduce(|all, known| all && known)
    }
}

/// Whether the dimensions of a result come from all operands.
fn broadcasts(op: &Op) -> bool {
    matches!(
        op,
        Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Min
            | Op::Max
            | Op::Greater
            | Op::LessOrEqual
            | Op::Where
            | Op::MatMul { .. }
            | Op::Concat { .. }
    )
}

/// What an operator does with the buffer of its first operand.
enum Reuse {
    /// Its result is the operand.
    Shares,
    /// It may overwrite the operand.
    MayOverwrite,
    /// It leaves the operand alone.
    Nothing,
}

/// The rule of ONNX Runtime's kernel for the CPU (`Alias` and `MayInplace` of its definition).
fn reuse(op: &Op) -> Reuse {
    match op {
        Op::Reshape { .. } | Op::ReshapeTo | Op::Unsqueeze { .. } | Op::Squeeze { .. } => Reuse::Shares,
        Op::Sigmoid
        | Op::Softplus
        | Op::Tanh
        | Op::Clip { .. }
        | Op::Cast { .. }
        | Op::StopGradient { .. }
        | Op::ScatterAdd { .. }
        | Op::ReplaceRows
        | Op::Softmax
        | Op::LogSoftmax => Reuse::MayOverwrite,
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Min | Op::Max => Reuse::Nothing,
        Op::Neg | Op::Exp | Op::Log | Op::Sqrt | Op::Reciprocal => Reuse::Nothing,
        Op::Abs | Op::Sign | Op::Erf | Op::Silu | Op::Gelu { .. } => Reuse::Nothing,
        Op::Greater | Op::LessOrEqual | Op::Where => Reuse::Nothing,
        Op::Linear | Op::MatMul { .. } | Op::Gather | Op::GatherPaired { .. } => Reuse::Nothing,
        Op::GatherElements | Op::Size { .. } | Op::ShapeOf | Op::Expand => Reuse::Nothing,
        Op::Transpose { .. } | Op::Concat { .. } | Op::Split { .. } | Op::Slice { .. } => Reuse::Nothing,
        Op::ReduceSum { .. } | Op::ReduceMean { .. } | Op::ReduceMax { .. } => Reuse::Nothing,
        Op::RmsNorm { .. } | Op::AddRmsNorm { .. } | Op::LayerNorm { .. } => Reuse::Nothing,
        Op::Rotary(_) | Op::GroupQueryAttention { .. } => Reuse::Nothing,
        Op::PackedLinear { .. } | Op::PackedGather(_) => Reuse::Nothing,
    }
}

/// Bytes of one element.
pub(super) const fn element_bytes(element: ElementType) -> usize {
    match element {
        ElementType::Bool | ElementType::U8 => 1,
        ElementType::F16 | ElementType::BF16 => 2,
        ElementType::F32 | ElementType::I32 => 4,
        ElementType::I64 => 8,
    }
}
