//! Values that the backward pass recomputes instead of keeping them.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::onnx::graph::Graph;
use crate::onnx::value::{Dim, Source, Value};

/// The values to recompute, and their copies.
pub(super) struct Recomputation {
    segments: Vec<Range<usize>>,
    /// The node that makes each recomputed value.
    producers: BTreeMap<Value, usize>,
    /// For each value, whether it depends on parameters and constants only.
    prepared: Vec<bool>,
    /// The first incoming gradient of each segment, by the segment's first node.
    incoming: BTreeMap<usize, Value>,
    /// The copy of each node.
    copies: BTreeMap<usize, usize>,
    /// The copy of each value.
    values: BTreeMap<Value, Value>,
    /// The operands that a segment reads from outside, tied to its incoming gradient.
    tied: BTreeMap<(usize, Value), Value>,
}

impl Recomputation {
    pub(super) fn new(graph: &Graph, wrt: &[Value], loss: Value, prepared: &[bool]) -> Self {
        let segments = graph.segments().to_vec();
        let mut producers = BTreeMap::new();
        for index in segments.iter().cloned().flatten() {
            let outputs = graph.nodes()[index].outputs.iter().flatten().copied();
            // Kept: integers and masks, which are small, and values that depend on parameters only.
            let heavy =
                outputs.filter(|output| graph.info(*output).element.is_float() && !prepared[output.index()]);
            producers.extend(heavy.map(|output| (output, index)));
        }
        for value in graph.outputs().iter().chain(wrt).chain([&loss]) {
            producers.remove(value);
        }
        let mut this = Self {
            segments,
            producers,
            prepared: prepared.to_vec(),
            incoming: BTreeMap::new(),
            copies: BTreeMap::new(),
            values: BTreeMap::new(),
            tied: BTreeMap::new(),
        };
        for (index, node) in graph.nodes().iter().enumerate() {
            let reader = this.segment(index);
            for input in node.inputs.iter().flatten() {
                if this.producers.get(input).is_some_and(|&producer| this.segment(producer) != reader) {
                    this.producers.remove(input);
                }
            }
        }
        this
    }

    /// Returns the first node of the segment that contains a node.
    fn segment(&self, node: usize) -> Option<usize> {
        let place = self.segments.partition_point(|segment| segment.end <= node);
        self.segments.get(place).filter(|segment| segment.contains(&node)).map(|segment| segment.start)
    }

    /// Records that the backward pass reaches a node with this gradient.
    pub(super) fn record_incoming(&mut self, node: usize, gradient: Value) {
        if let Some(segment) = self.segment(node) {
            self.incoming.entry(segment).or_insert(gradient);
        }
    }

    /// Returns a value, or its copy if it is not kept.
    pub(super) fn forward_value(&mut self, graph: &mut Graph, value: Value) -> Value {
        let Some(&producer) = self.producers.get(&value) else { return value };
        self.copy(graph, producer);
        self.values.get(&value).copied().unwrap_or(value)
    }

    /// Returns a node, or its copy if it is in a segment.
    pub(super) fn node(&mut self, graph: &mut Graph, node: usize) -> usize {
        if self.segment(node).is_some() { self.copy(graph, node) } else { node }
    }

    fn copy(&mut self, graph: &mut Graph, index: usize) -> usize {
        if let Some(&copy) = self.copies.get(&index) {
            return copy;
        }
        let node = graph.nodes()[index].clone();
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            inputs.push(input.map(|input| {
                if self.producers.contains_key(&input) {
                    self.forward_value(graph, input)
                } else {
                    self.tied(graph, index, input)
                }
            }));
        }
        let copy = graph.copy_of(&node, inputs);
        let copied = graph.nodes()[copy].outputs.clone();
        let pairs = node.outputs.iter().zip(copied);
        self.values.extend(pairs.filter_map(|(&value, copy)| Some((value?, copy?))));
        self.copies.insert(index, copy);
        copy
    }

    /// Returns an operand from outside a segment, tied to the segment's incoming gradient: it is computed
    /// after that gradient.
    fn tied(&mut self, graph: &mut Graph, node: usize, value: Value) -> Value {
        let Some(segment) = self.segment(node) else { return value };
        let Some(&incoming) = self.incoming.get(&segment) else { return value };
        let info = graph.info(value);
        let constant = self.prepared.get(value.index()).copied().unwrap_or(false)
            || matches!(info.source, Source::Constant(_) | Source::Weight(_) | Source::Input);
        let open = info.shape.iter().any(|dim| matches!(dim, Dim::Named(_)));
        if constant || !open || info.shape != *graph.shape(incoming) || !info.element.is_float() {
            return value;
        }
        if let Some(&known) = self.tied.get(&(segment, value)) {
            return known;
        }
        let shape = graph.shape(value).clone();
        let sizes = graph.shape_of(incoming);
        let tied = graph.reshape_to(value, sizes, shape);
        self.tied.insert((segment, value), tied);
        tied
    }
}
