//! Compares ONNX Runtime's 32-bit kernels, with the exported attributes, against the reference interpreter.

use std::collections::BTreeMap;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor as OrtTensor};

use crate::onnx::autodiff::gradients;
use crate::onnx::export::export;
use crate::onnx::graph::Graph;
use crate::onnx::reference::evaluate;
use crate::onnx::reference::tensor::Tensor;
use crate::onnx::value::{Dim, ElementType, Source};
use crate::random::Random;
use crate::required::required;
use crate::runtime::OnnxRuntime;

use super::{Built, KINDS, between, cases, kinds_in};

/// Largest difference from the reference, relative to the greatest element of the tensor.
const TOLERANCE: f64 = 1e-5;

/// Requires ONNX Runtime.
fn runtime() -> Option<&'static OnnxRuntime> {
    required(OnnxRuntime::load(None))
}

fn operand(element: ElementType, tensor: &Tensor) -> DynValue {
    let shape: Vec<i64> = tensor.shape.iter().map(|&size| i64::try_from(size).expect("a size")).collect();
    match element {
        ElementType::F32 => {
            #[expect(clippy::cast_possible_truncation, reason = "inputs are rounded to 32 bits already")]
            let data: Vec<f32> = tensor.data.iter().map(|&x| x as f32).collect();
            OrtTensor::from_array((shape, data)).expect("a tensor").into_dyn()
        }
        ElementType::I64 => OrtTensor::from_array((shape, tensor.integers())).expect("a tensor").into_dyn(),
        ElementType::I32 => {
            let data = tensor.integers().into_iter().map(|x| i32::try_from(x).expect("a small number"));
            OrtTensor::from_array((shape, data.collect::<Vec<_>>())).expect("a tensor").into_dyn()
        }
        ElementType::F16 | ElementType::BF16 | ElementType::U8 | ElementType::Bool => {
            panic!("no input is of type {element:?}")
        }
    }
}

/// Runs a graph in ONNX Runtime and returns the outputs.
fn run(
    runtime: &OnnxRuntime,
    graph: &Graph,
    inputs: &BTreeMap<String, Tensor>,
    level: GraphOptimizationLevel,
) -> Vec<Vec<f32>> {
    let model = export(graph).expect("the graph can be exported");
    let mut session = Session::builder(runtime.environment())
        .and_then(|builder| Ok(builder.with_optimization_level(level)?))
        .and_then(|mut builder| builder.commit_from_memory(&model.bytes))
        .unwrap_or_else(|error| panic!("{error}"));
    let inputs: Vec<(String, DynValue)> = graph
        .values()
        .iter()
        .filter(|value| value.source == Source::Input)
        .map(|value| (value.name.clone(), operand(value.element, &inputs[&value.name])))
        .collect();
    let outputs = session.run(inputs).unwrap_or_else(|error| panic!("{error}"));
    let numbers = graph.outputs().iter().map(|&output| {
        let name = &graph.info(output).name;
        outputs[name.as_str()].try_extract_tensor::<f32>().expect("32-bit floats").1.to_vec()
    });
    numbers.collect()
}

/// Runs a graph in ONNX Runtime and in the reference interpreter, and compares the outputs.
fn compare(name: &str, runtime: &OnnxRuntime, graph: &Graph, inputs: &BTreeMap<String, Tensor>) {
    let expected = evaluate(graph, inputs);
    for level in
        [GraphOptimizationLevel::Disable, GraphOptimizationLevel::Level1, GraphOptimizationLevel::All]
    {
        let found = run(runtime, graph, inputs, level);
        for (index, (&output, found)) in graph.outputs().iter().zip(&found).enumerate() {
            let expected = expected.get(output);
            assert_eq!(expected.data.len(), found.len(), "{name}: output {index}");
            let scale = expected.data.iter().fold(1e-3_f64, |scale, x| scale.max(x.abs()));
            for (place, (&x, &y)) in expected.data.iter().zip(found).enumerate() {
                let error = (x - f64::from(y)).abs() / scale;
                assert!(error <= TOLERANCE, "{name}: output {index} at {place} is {y} and should be {x}");
            }
        }
    }
}

/// Returns every case with its gradients, as an executable graph.
fn graphs() -> Vec<(&'static str, Graph, BTreeMap<String, Tensor>)> {
    let cases = cases::all();
    let built = cases.iter().filter(|case| case.runs).map(|case| {
        let built = Built::of(case);
        let (mut graph, gradients) =
            if case.smooth { built.differentiated() } else { (built.graph.clone(), Vec::new()) };
        for (index, value) in [built.results, vec![built.loss], gradients].concat().into_iter().enumerate() {
            graph.output(value, &format!("output_{index}"));
        }
        (case.name, graph, built.inputs)
    });
    built.collect()
}

#[test]
fn every_kernel_agrees_with_the_reference() {
    let Some(runtime) = runtime() else { return };
    for (name, graph, inputs) in graphs() {
        compare(name, runtime, &graph, &inputs);
    }
}

#[test]
fn gradients_of_repeated_rows_are_summed_in_one_order() {
    let Some(runtime) = runtime() else { return };
    let mut graph = Graph::new();
    let rows = Dim::Named("rows");
    let table = graph.input("table", ElementType::F32, vec![Dim::Fixed(7), Dim::Fixed(33)]);
    let ids = graph.input("ids", ElementType::I64, vec![rows]);
    let factors = graph.input("factors", ElementType::F32, vec![rows, Dim::Fixed(33)]);
    let chosen = graph.gather(table, ids);
    let scaled = graph.mul(chosen, factors).expect("the same shape");
    let loss = graph.sum_all(scaled);
    let gradient = gradients(&mut graph, loss, &[table]).expect("a gradient")[0];
    graph.output(gradient, "gradient");
    let mut random = Random::new(5);
    let inputs = BTreeMap::from([
        ("table".to_owned(), Tensor::from_fn([7, 33], |_| between(&mut random, -1.0, 1.0))),
        (
            "ids".to_owned(),
            Tensor::from_fn([3000], |index| [0.0, 6.0, 3.0, 3.0, 1.0][index[0] * index[0] % 5]),
        ),
        ("factors".to_owned(), Tensor::from_fn([3000, 33], |_| between(&mut random, 0.0, 1.0))),
    ]);
    compare("rows", runtime, &graph, &inputs);
    let again = || run(runtime, &graph, &inputs, GraphOptimizationLevel::Level1);
    let first = again();
    for _ in 0..5 {
        assert_eq!(again(), first);
    }
}

#[test]
fn every_operator_is_run() {
    let graphs = graphs();
    let run = kinds_in(graphs.iter().map(|(_, graph, _)| graph));
    for kind in KINDS {
        assert!(run.contains(kind), "no case runs {kind}");
    }
}
