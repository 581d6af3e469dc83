//! The order of the nodes that make the gradients of parameters: see "Order" in [`super`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::onnx::graph::Graph;
use crate::onnx::value::Value;

/// The last part of the backward pass: it turns the gradients at the readers of parameters into gradients of
/// the requested values.
///
/// Each of its nodes has a rank, the index of the first forward node that reads the parameter.
pub(super) struct GradientOrder {
    /// The nodes of the backward pass up to the gradients at the readers.
    pass: Range<usize>,
    /// The nodes of the pass that make a parameter's gradient and nothing else, with their ranks first.
    makers: BTreeSet<(usize, usize)>,
    /// The forward nodes that prepare parameters, with their ranks, in the order of their rules.
    preparations: Vec<(usize, usize)>,
    /// The nodes that each rule made, with the rank.
    made: Vec<(usize, Range<usize>)>,
}

impl GradientOrder {
    pub(super) fn new(
        first: usize,
        graph: &Graph,
        wanted: &[(Value, Value)],
        readers: &[usize],
        preparations: &BTreeSet<usize>,
    ) -> Self {
        let pass = first..graph.nodes().len();
        let (values, nodes) = ranks(graph, readers, preparations);
        let mut producers = BTreeMap::new();
        let mut read: BTreeSet<Value> = BTreeSet::new();
        for index in pass.clone() {
            let node = &graph.nodes()[index];
            read.extend(node.inputs.iter().flatten());
            if let [Some(only)] = node.outputs[..] {
                producers.insert(only, index);
            }
        }
        let made =
            wanted.iter().filter(|(value, gradient)| values.contains_key(value) && !read.contains(gradient));
        let makers = made.filter_map(|(value, gradient)| Some((values[value], *producers.get(gradient)?)));
        Self { makers: makers.collect(), preparations: in_order(graph, nodes), made: Vec::new(), pass }
    }

    /// Returns the nodes that prepare parameters, each after its readers, with their ranks.
    pub(super) fn preparations(&mut self) -> Vec<(usize, usize)> {
        std::mem::take(&mut self.preparations)
    }

    /// Records the nodes that the rule of a preparation made.
    pub(super) fn made(&mut self, place: usize, nodes: Range<usize>) {
        self.made.push((place, nodes));
    }

    /// Sorts the nodes that make gradients among the nodes that the rules made from them.
    pub(super) fn put_in_order(self, graph: &mut Graph) {
        let moved: BTreeSet<usize> = self.makers.iter().map(|&(_, node)| node).collect();
        let mut order: Vec<usize> = self.pass.clone().filter(|index| !moved.contains(index)).collect();
        let mut makers = self.makers.into_iter().peekable();
        for (place, nodes) in self.made {
            while let Some((_, maker)) = makers.next_if(|&(before, _)| before <= place) {
                order.push(maker);
            }
            order.extend(nodes);
        }
        order.extend(makers.map(|(_, maker)| maker));
        graph.reorder(self.pass.start, &order);
    }
}

/// Returns the rank of each value that depends on parameters only, and of each node that makes such a value.
///
/// The rank of a value is the first node that reads the value, or a value made from it, together with other
/// values. The rank of a node is the last rank of its results, because its rule needs the gradients of all
/// results.
fn ranks(
    graph: &Graph,
    readers: &[usize],
    preparations: &BTreeSet<usize>,
) -> (BTreeMap<Value, usize>, BTreeMap<usize, usize>) {
    let mut values: BTreeMap<Value, usize> = BTreeMap::new();
    let read = |values: &mut BTreeMap<Value, usize>, node: usize, place: usize| {
        for &input in graph.nodes()[node].inputs.iter().flatten() {
            let known = values.entry(input).or_insert(place);
            *known = place.min(*known);
        }
    };
    for &reader in readers {
        read(&mut values, reader, reader);
    }
    let made_by_pass: BTreeSet<Value> =
        readers.iter().flat_map(|&reader| graph.nodes()[reader].outputs.iter().flatten().copied()).collect();
    values.retain(|value, _| !made_by_pass.contains(value));
    let mut nodes = BTreeMap::new();
    for &index in preparations.iter().rev() {
        let outputs = graph.nodes()[index].outputs.iter().flatten();
        let place = outputs.filter_map(|output| values.get(output).copied()).max().unwrap_or(0);
        nodes.insert(index, place);
        read(&mut values, index, place);
    }
    (values, nodes)
}

/// Nodes with their ranks, each after its readers, the lowest rank first.
fn in_order(graph: &Graph, nodes: BTreeMap<usize, usize>) -> Vec<(usize, usize)> {
    let mut producer = BTreeMap::new();
    for &index in nodes.keys() {
        producer.extend(graph.nodes()[index].outputs.iter().flatten().map(|&output| (output, index)));
    }
    let operands = |index: usize| {
        let inputs = graph.nodes()[index].inputs.iter().flatten();
        inputs.filter_map(|input| producer.get(input).copied()).collect::<Vec<_>>()
    };
    let mut readers: BTreeMap<usize, usize> = nodes.keys().map(|&index| (index, 0)).collect();
    for read in nodes.keys().flat_map(|&index| operands(index)) {
        *readers.entry(read).or_default() += 1;
    }
    let unread = nodes.iter().filter(|(index, _)| readers[index] == 0);
    let mut ready: BTreeSet<(usize, usize)> = unread.map(|(&index, &place)| (place, index)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some((place, index)) = ready.pop_first() {
        order.push((place, index));
        for read in operands(index) {
            let left = readers.entry(read).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                ready.insert((nodes[&read], read));
            }
        }
    }
    order
}
