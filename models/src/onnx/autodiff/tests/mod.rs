//! Checks the rules against finite differences, and ONNX Runtime against the reference interpreter.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{InvalidKind, ModelError};
use crate::onnx::graph::Graph;
use crate::onnx::op::Op;
use crate::onnx::reference::tensor::Tensor;
use crate::onnx::reference::{Run, evaluate};
use crate::onnx::value::{Dim, ElementType, Value};
use crate::random::Random;

use super::gradients;

mod cases;
mod memory;
mod packed;
mod runtime;
mod whole;

/// Step of the central differences. Their own error is of the order of its square.
const STEP: f64 = 1e-5;

/// Largest difference from the central difference, relative to the greater of 1 and the gradient.
const TOLERANCE: f64 = 1e-6;

/// An input of a case.
struct CaseInput {
    name: &'static str,
    element: ElementType,
    dims: Vec<(Dim, usize)>,
    numbers: Numbers,
}

enum Numbers {
    /// Random numbers of this range, rounded to 32 bits.
    Between(f64, f64),
    /// Exactly these integers.
    Exactly(Vec<i64>),
}

/// A small graph.
struct Case {
    name: &'static str,
    inputs: Vec<CaseInput>,
    build: fn(&mut Graph, &[Value]) -> Result<Vec<Value>, ModelError>,
    /// Whether it has a gradient.
    smooth: bool,
    /// Whether 32-bit floats are precise enough to compare it in ONNX Runtime.
    runs: bool,
}

fn fixed(size: usize) -> (Dim, usize) {
    (Dim::Fixed(size), size)
}

fn named(name: &'static str, size: usize) -> (Dim, usize) {
    (Dim::Named(name), size)
}

fn real(name: &'static str, dims: &[(Dim, usize)], low: f64, high: f64) -> CaseInput {
    CaseInput { name, element: ElementType::F32, dims: dims.to_vec(), numbers: Numbers::Between(low, high) }
}

fn ids(name: &'static str, dims: &[(Dim, usize)], ids: &[i64]) -> CaseInput {
    CaseInput {
        name,
        element: ElementType::I64,
        dims: dims.to_vec(),
        numbers: Numbers::Exactly(ids.to_vec()),
    }
}

/// Returns a random number of a range, rounded to 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "rounding is wanted")]
fn between(random: &mut Random, low: f64, high: f64) -> f64 {
    f64::from((low + random.unit() * (high - low)) as f32)
}

impl CaseInput {
    #[expect(clippy::cast_precision_loss, reason = "ids are small")]
    fn tensor(&self, random: &mut Random) -> Tensor {
        let shape: Vec<usize> = self.dims.iter().map(|(_, size)| *size).collect();
        match &self.numbers {
            &Numbers::Between(low, high) => Tensor::from_fn(shape, |_| between(random, low, high)),
            Numbers::Exactly(ids) => Tensor::new(shape, ids.iter().map(|&id| id as f64).collect()),
        }
    }
}

/// A case's graph with its inputs, its results, and the values to differentiate by. The loss weights each
/// element of the results at random.
struct Built {
    graph: Graph,
    inputs: BTreeMap<String, Tensor>,
    results: Vec<Value>,
    loss: Value,
    wrt: Vec<Value>,
}

impl Built {
    fn of(case: &Case) -> Self {
        let mut random = Random::new(7);
        let (mut graph, mut inputs, mut values) = (Graph::new(), BTreeMap::new(), Vec::new());
        for input in &case.inputs {
            let shape = input.dims.iter().map(|(dim, _)| *dim).collect();
            values.push(graph.input(input.name, input.element, shape));
            inputs.insert(input.name.to_owned(), input.tensor(&mut random));
        }
        let results =
            (case.build)(&mut graph, &values).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let run = evaluate(&graph, &inputs);
        let mut loss = graph.constant_scalar(0.0);
        for (index, &result) in results.iter().enumerate() {
            let name = format!("loss_weight_{index}");
            let tensor = Tensor::from_fn(&run.get(result).shape[..], |_| between(&mut random, -1.0, 1.0));
            let weight = graph.input(&*name, ElementType::F32, graph.shape(result).clone());
            inputs.insert(name, tensor);
            let weighted = graph.mul(result, weight).expect("the same shape");
            let term = graph.sum_all(weighted);
            loss = graph.add(loss, term).expect("two numbers");
        }
        let wrt = values.into_iter().filter(|&value| graph.info(value).element == ElementType::F32).collect();
        Self { graph, inputs, results, loss, wrt }
    }

    fn loss_at(&self, inputs: &BTreeMap<String, Tensor>) -> f64 {
        evaluate(&self.graph, inputs).get(self.loss).data[0]
    }

    /// Returns the graph with its gradients.
    fn differentiated(&self) -> (Graph, Vec<Value>) {
        let mut graph = self.graph.clone();
        let found = gradients(&mut graph, self.loss, &self.wrt).unwrap_or_else(|error| panic!("{error}"));
        (graph, found)
    }

    /// Compares the gradients with central differences.
    fn check(&self, name: &str) {
        let (graph, found) = self.differentiated();
        let run: Run = evaluate(&graph, &self.inputs);
        for (&value, &gradient) in self.wrt.iter().zip(&found) {
            let input = &self.graph.info(value).name;
            let gradient = run.get(gradient);
            assert_eq!(gradient.shape, self.inputs[input].shape, "{name}: the gradient of {input}");
            let mut inputs = self.inputs.clone();
            for (place, &found) in gradient.data.iter().enumerate() {
                let mut loss_at = |change: f64| {
                    let number = self.inputs[input].data[place] + change;
                    inputs.get_mut(input).expect("the input").data[place] = number;
                    self.loss_at(&inputs)
                };
                let difference = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
                loss_at(0.0);
                let error = (found - difference).abs() / difference.abs().max(1.0);
                assert!(error <= TOLERANCE, "{name}: {input}[{place}]: {found} is not {difference}");
            }
        }
    }
}

/// All kinds of operators. A new operator does not compile until it is listed here, and then it needs a case.
macro_rules! kinds {
    ($($kind:ident)*) => {
        const KINDS: &[&str] = &[$(stringify!($kind)),*];

        fn kind(op: &Op) -> &'static str {
            match op {
                $(Op::$kind { .. } => stringify!($kind),)*
            }
        }
    };
}

kinds! {
    Add Sub Mul Div Min Max Neg Exp Log Sqrt Reciprocal Sigmoid Softplus Tanh Abs Sign Erf Silu Gelu Clip Greater LessOrEqual
    Where Cast StopGradient Linear MatMul Gather GatherPaired GatherElements ScatterAdd ReplaceRows Reshape ReshapeTo Size ShapeOf Expand
    Transpose Unsqueeze Squeeze Concat Split Slice ReduceSum ReduceMean ReduceMax Softmax LogSoftmax RmsNorm AddRmsNorm
    LayerNorm Rotary GroupQueryAttention PackedLinear PackedGather
}

/// The operators that pass no gradient on.
const WITHOUT_GRADIENT: [&str; 13] = [
    "Sign",
    "Greater",
    "LessOrEqual",
    "ReduceMax",
    "StopGradient",
    "ScatterAdd",
    "ReplaceRows",
    "Size",
    "ShapeOf",
    "AddRmsNorm",
    "GroupQueryAttention",
    "PackedLinear",
    "PackedGather",
];

fn kinds_in<'a>(graphs: impl Iterator<Item = &'a Graph>) -> BTreeSet<&'static str> {
    graphs.flat_map(Graph::nodes).map(|node| kind(&node.op)).collect()
}

#[test]
fn every_rule_agrees_with_finite_differences() {
    for case in cases::all().iter().filter(|case| case.smooth) {
        Built::of(case).check(case.name);
    }
}

#[test]
fn every_operator_with_a_gradient_is_checked() {
    let built: Vec<Built> = cases::all().iter().filter(|case| case.smooth).map(Built::of).collect();
    let checked = kinds_in(built.iter().map(|built| &built.graph));
    for kind in KINDS.iter().filter(|kind| !WITHOUT_GRADIENT.contains(kind)) {
        assert!(checked.contains(kind), "no case differentiates {kind}");
    }
}

#[test]
fn stop_gradient_blocks_the_gradient() {
    let mut graph = Graph::new();
    let x = graph.input("x", ElementType::F32, vec![Dim::Named("rows")]);
    let stopped = graph.stop_gradient(x);
    let y = graph.mul(x, stopped).expect("the same shape");
    let loss = graph.sum_all(y);
    let found = gradients(&mut graph, loss, &[x]).expect("a gradient")[0];
    let inputs = BTreeMap::from([("x".to_owned(), Tensor::new([2], vec![3.0, -4.0]))]);
    assert_eq!(evaluate(&graph, &inputs).get(found).data, [3.0, -4.0]);
}

#[test]
fn ties_share_the_gradient() {
    let mut graph = Graph::new();
    let [x, y] = ["x", "y"].map(|name| graph.input(name, ElementType::F32, vec![Dim::Named("rows")]));
    let greater = graph.max(x, y).expect("the same shape");
    let loss = graph.sum_all(greater);
    let found = gradients(&mut graph, loss, &[x, y]).expect("gradients");
    let inputs = [("x", vec![1.0, 2.0, 3.0]), ("y", vec![1.0, 3.0, 2.0])];
    let inputs = inputs.map(|(name, data)| (name.to_owned(), Tensor::new([3], data)));
    let run = evaluate(&graph, &BTreeMap::from(inputs));
    assert_eq!(run.get(found[0]).data, [0.5, 0.0, 1.0]);
    assert_eq!(run.get(found[1]).data, [0.5, 1.0, 0.0]);
}

#[test]
fn an_operator_without_a_rule_is_named() {
    let mut graph = Graph::new();
    let shape = vec![Dim::Named("batch"), Dim::Named("seq"), Dim::Fixed(4)];
    let [x, y] = ["x", "y"].map(|name| graph.input(name, ElementType::F32, shape.clone()));
    let weight = graph.constant_f32("w", &[4], &[1.0; 4]);
    let (norm, _) = graph.add_rms_norm(x, y, weight, 1e-6);
    let loss = graph.sum_all(norm);
    let error = gradients(&mut graph, loss, &[x]).expect_err("no rule").to_string();
    assert!(error.contains("SkipSimplifiedLayerNormalization"), "{error}");
}

#[test]
fn a_loss_must_be_a_scalar_that_depends_on_the_values() {
    let mut graph = Graph::new();
    let [x, y] = ["x", "y"].map(|name| graph.input(name, ElementType::F32, vec![Dim::Fixed(2)]));
    let error = gradients(&mut graph, x, &[x]).expect_err("two numbers");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::ShapeMismatch), "{error}");
    let loss = graph.sum_all(x);
    let error = gradients(&mut graph, loss, &[x, y]).expect_err("y is not in it");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Graph), "{error}");
}

#[test]
fn frozen_weights_cost_no_product() {
    let mut graph = Graph::new();
    let x = graph.input("x", ElementType::F32, vec![Dim::Named("rows"), Dim::Fixed(3)]);
    let trained = graph.input("trained", ElementType::F32, vec![Dim::Fixed(3)]);
    let frozen = graph.constant_f32("frozen", &[3, 3], &[0.5; 9]);
    let below = graph.linear(x, frozen).expect("the shapes match");
    let scaled = graph.mul(below, trained).expect("the shapes match");
    let above = graph.linear(scaled, frozen).expect("the shapes match");
    let loss = graph.sum_all(above);
    gradients(&mut graph, loss, &[trained]).expect("a gradient");
    let products = |wanted: &str| graph.nodes().iter().filter(|node| kind(&node.op) == wanted).count();
    assert_eq!((products("Linear"), products("MatMul")), (2, 1), "one product back through the upper layer");
}
