//! Values that the backward pass keeps, in ONNX Runtime's order of execution.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::ModelError;
use crate::onnx::autodiff::gradients;
use crate::onnx::graph::Graph;
use crate::onnx::memory::run_order;
use crate::onnx::op::Op;
use crate::onnx::reference::evaluate;
use crate::onnx::reference::tensor::Tensor;
use crate::onnx::value::{Dim, ElementType, Source, Value};
use crate::random::Random;

use super::between;

const WIDTH: usize = 4;
const WIDE: usize = 16;
const ROWS: usize = 40;

/// Returns the peak number of live elements, without inputs and constants.
fn peak(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> usize {
    let run = evaluate(graph, inputs);
    let order = run_order(graph);
    // An operator that moves no data shares the memory of its operand.
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

/// Stacked layers whose matrices, biases and norms are slices of one vector, in that order.
struct Stack {
    layers: usize,
    segments: bool,
    /// Whether the gradients of all parts are concatenated from last to first, instead of taking the vector's
    /// gradient.
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
fn segments_keep_less_memory() {
    let kept = Stack { segments: false, ..STACK }.peak();
    let computed_again = STACK.peak();
    assert!(2 * computed_again < kept, "{computed_again} numbers against {kept}");
}

#[test]
fn a_further_layer_keeps_only_its_input_and_parameters() {
    let more = Stack { layers: STACK.layers + 4, ..STACK }.peak() - STACK.peak();
    // The input of the layer; its slice of the vector and of the gradients, before and after they become one
    // vector.
    let expected = 4 * (ROWS * WIDTH + 3 * (2 * WIDTH * WIDE + WIDE + WIDTH));
    assert!(more <= expected, "{more} numbers instead of {expected}");
}

#[test]
fn gradients_in_the_wrong_order_keep_more_memory() {
    let (vector, reversed) = (STACK.peak(), Stack { reversed: true, ..STACK }.peak());
    assert!(vector < reversed, "{vector} numbers against {reversed}");
}

#[test]
fn copies_wait_for_the_incoming_gradient_of_their_segment() {
    let graph = STACK.graph();
    let order = run_order(&graph);
    let at = |wanted: fn(&Op) -> bool| {
        let found = order.iter().enumerate().filter(|&(_, &index)| wanted(&graph.nodes()[index].op));
        found.map(|(time, _)| time).collect::<Vec<_>>()
    };
    // Each layer's norm runs once forward and once recomputed. The rule of a norm takes a mean of its own,
    // except in the first layer, below which no parameter is trained.
    let norms = at(|op| matches!(op, Op::RmsNorm { .. }));
    let rules = at(|op| matches!(op, Op::ReduceMean { keep: true, .. }));
    let copies = &norms[STACK.layers..];
    assert_eq!((copies.len(), rules.len()), (STACK.layers, STACK.layers - 1));
    for (above, copy) in rules.iter().zip(&copies[1..]) {
        assert!(above < copy, "a layer is computed again before the layer above it is differentiated");
    }
}
