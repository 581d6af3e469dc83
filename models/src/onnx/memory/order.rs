//! The order in which ONNX Runtime runs the nodes of a graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::onnx::graph::Graph;

/// Returns the nodes in ONNX Runtime's default order: depth-first from the nodes without readers, last in the
/// file first. See `Graph::ReverseDFSFrom` in onnxruntime/core/graph/graph.cc, as called by `GraphViewer`.
pub(in crate::onnx) fn run_order(graph: &Graph) -> Vec<usize> {
    let mut producers = BTreeMap::new();
    let mut read = BTreeSet::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        producers.extend(node.outputs.iter().flatten().map(|&output| (output, index)));
        read.extend(node.inputs.iter().flatten().filter_map(|input| producers.get(input).copied()));
    }
    let leaves = (0..graph.nodes().len()).filter(|index| !read.contains(index));
    let mut stack: Vec<(usize, bool)> = leaves.map(|index| (index, false)).collect();
    let (mut visited, mut order) = (BTreeSet::new(), Vec::new());
    while let Some((index, done)) = stack.pop() {
        if done {
            order.push(index);
        } else if visited.insert(index) {
            stack.push((index, true));
            let inputs = graph.nodes()[index].inputs.iter().flatten();
            let before: BTreeSet<usize> = inputs.filter_map(|input| producers.get(input).copied()).collect();
            stack.extend(before.into_iter().map(|index| (index, false)));
        }
    }
    order
}
