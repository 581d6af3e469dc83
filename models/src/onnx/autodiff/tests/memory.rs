//! What the backward pass keeps, in the order in which ONNX Runtime runs a graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::ModelError;
use crate::onnx::autodiff::gradients;
use crate::onnx::graph::Graph;
use crate::onnx::op::Op;
use crate::onnx::reference::evaluate;
use crate::onnx::reference::tensor::Tensor;
use crate::onnx::value::{Dim, ElementType, Source, Value};
use crate::random::Random;

use super::between;

const WIDTH: usize = 4;
const WIDE: usize = 16;
const ROWS: usize = 40;

/// The nodes in ONNX Runtime's default order: depth first from those that nothing reads, the latest in the file first
/// (`Graph::ReverseDFSFrom` in onnxruntime/core/graph/graph.cc, as `GraphViewer` calls it).
fn run_order(graph: &Graph) -> Vec<usize> {
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

/// The most numbers that are alive at a time, leaving out inputs and constants.
fn peak(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> usize {
    let run = evaluate(graph, inputs);
    let order = run_order(graph);
    // What moves nothing shares the memory of what it reads.
    let mut owner: BTreeMap<Value, Value> = BTreeMap::new();
    for node in graph.nodes() {
        let moves = !matches!(
            node.op,
            Op::Reshape { .. }
                | Op::ReshapeTo
                | Op::Unsqueeze { .. }
                | Op::Squeeze { .. }
                | Op::StopGradient { .. }
        );
        for &output in node.outputs.iter().flatten() {
            let source =
                node.inputs[0].filter(|_| !moves).map(|input| owner.get(&input).copied().unwrap_or(input));
            owner.insert(output, source.unwrap_or(output));
        }
    }
    let mut last_use = BTreeMap::new();
    for (time, &index) in order.iter().enumerate() {
        let node = &graph.nodes()[index];
        for value in node.inputs.iter().chain(&node.outputs).flatten() {
            last_use.insert(owner.get(value).copied().unwrap_or(*value), time);
        }
    }
    for value in graph.outputs() {
        last_use.insert(owner[value], order.len());
    }
    let (mut alive, mut most) = (BTreeSet::new(), 0);
    for (time, &index) in order.iter().enumerate() {
        alive.extend(graph.nodes()[index].outputs.iter().flatten().map(|output| owner[output]));
        let made = alive.iter().filter(|&&value| graph.info(value).source == Source::Node);
        most = most.max(made.map(|&value| run.get(value).data.len()).sum());
        alive.retain(|value| last_use[value] > time);
    }
    most
}

/// Layers on top of each other, whose matrices, biases and norms are parts of one vector in that order.
struct Stack {
    layers: usize,
    segments: bool,
    /// Whether the gradients of all parts are put together from the last to the first, instead of taking the vector's.
    reversed: bool,
}

impl Stack {
    fn build(&self) -> Result<Graph, ModelError> {
        let mut graph = Graph::new();
        let (matrix, layers) = (WIDTH * WIDE, self.layers);
        let sizes = [vec![matrix; 2 * layers], vec![WIDE; layers], vec![WIDTH; layers]].concat();
        let parameters = graph.input("parameters", ElementType::F32, vec![Dim::Fixed(sizes.iter().sum())]);
        let mut x = graph.input("x", ElementType::F32, vec![Dim::Named("rows"), Dim::Fixed(WIDTH)]);
        let mut parts = graph.split(parameters, 0, &sizes)?;
        for (index, part) in parts.iter_mut().enumerate().take(2 * layers) {
            let [rows, columns] = if index % 2 == 0 { [WIDE, WIDTH] } else { [WIDTH, WIDE] };
            *part = graph.reshape(*part, vec![Dim::Fixed(rows), Dim::Fixed(columns)])?;
        }
        x = graph.tanh(x);
        for layer in 0..layers {
            if self.segments {
                graph.begin_segment();
            }
            let normed = graph.rms_norm(x, parts[3 * layers + layer], 1e-5);
            let wide = graph.linear(normed, parts[2 * layer])?;
            let wide = graph.add(wide, parts[2 * layers + layer])?;
            let wide = graph.gelu(wide, true);
            let narrow = graph.linear(wide, parts[2 * layer + 1])?;
            x = graph.add(x, narrow)?;
            graph.end_segment();
        }
        let square = graph.square(x);
        let loss = graph.mean_all(square);
        let gradient = if self.reversed {
            let mut flat = Vec::new();
            for (gradient, size) in gradients(&mut graph, loss, &parts)?.into_iter().zip(sizes).rev() {
                flat.push(graph.reshape(gradient, vec![Dim::Fixed(size)])?);
            }
            graph.concat(&flat, 0)?
        } else {
            gradients(&mut graph, loss, &[parameters])?[0]
        };
        graph.output(gradient, "gradient");
        Ok(graph)
    }

    fn graph(&self) -> Graph {
        self.build().expect("it fits")
    }

    fn peak(&self) -> usize {
        let graph = self.graph();
        let mut random = Random::new(3);
        let mut tensor = |shape: &[usize]| Tensor::from_fn(shape, |_| between(&mut random, -1.0, 1.0));
        let count = self.layers * (2 * WIDTH * WIDE + WIDE + WIDTH);
        let inputs = [("parameters", tensor(&[count])), ("x", tensor(&[ROWS, WIDTH]))];
        peak(&graph, &inputs.map(|(name, tensor)| (name.to_owned(), tensor)).into())
    }
}

const STACK: Stack = Stack { layers: 6, segments: true, reversed: false };

#[test]
fn segments_keep_less() {
    let kept = Stack { segments: false, ..STACK }.peak();
    let computed_again = STACK.peak();
    assert!(2 * computed_again < kept, "{computed_again} numbers against {kept}");
}

#[test]
fn another_layer_keeps_its_input_and_its_parameters_and_nothing_else() {
    let more = Stack { layers: STACK.layers + 4, ..STACK }.peak() - STACK.peak();
    // The input of the layer; its part of the vector and of the gradients, before and after they are one vector.
    let expected = 4 * (ROWS * WIDTH + 3 * (2 * WIDTH * WIDE + WIDE + WIDTH));
    assert!(more <= expected, "{more} numbers instead of {expected}");
}

#[test]
fn gradients_in_the_wrong_order_keep_more() {
    let (vector, reversed) = (STACK.peak(), Stack { reversed: true, ..STACK }.peak());
    assert!(vector < reversed, "{vector} numbers against {reversed}");
}

#[test]
fn copies_wait_for_the_gradient_that_comes_into_their_segment() {
    let graph = STACK.graph();
    let order = run_order(&graph);
    let at = |wanted: fn(&Op) -> bool| {
        let found = order.iter().enumerate().filter(|&(_, &index)| wanted(&graph.nodes()[index].op));
        found.map(|(time, _)| time).collect::<Vec<_>>()
    };
    // Each layer's norm runs once forward and once again; the rule of a norm takes a mean of its own, but for the first layer,
    // below which nothing is trained.
    let norms = at(|op| matches!(op, Op::RmsNorm { .. }));
    let rules = at(|op| matches!(op, Op::ReduceMean { keep: true, .. }));
    let copies = &norms[STACK.layers..];
    assert_eq!((copies.len(), rules.len()), (STACK.layers, STACK.layers - 1));
    for (above, copy) in rules.iter().zip(&copies[1..]) {
        assert!(above < copy, "a layer is computed again before the layer above it is differentiated");
    }
}
