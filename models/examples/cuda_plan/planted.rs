//! A check of the checks, in a process of its own. A session with a node that has no CUDA kernel must be
//! found in the log. Without a fallback to the CPU it must not open.

use std::sync::Arc;

use ort::editor::{Graph, Model, Node, ONNX_DOMAIN, Opset};
use ort::environment::Environment;
use ort::ep::CUDA;
use ort::operator::Attribute;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::{Outlet, Shape, SymbolicDimensions, TensorElementType, ValueType};

use crate::Failure;
use crate::placement::PlacementLog;

/// The operator of attention. In 32-bit floats it has a kernel on the CPU only.
const ATTENTION: &str = "GroupQueryAttention";

/// Opens the planted sessions.
///
/// # Errors
/// If one of them passes a check, or if a graph without the node fails one.
pub(crate) fn run() -> Result<(), Failure> {
    let path = std::env::var("ORT_DYLIB_PATH")
        .map_err(|_| "ORT_DYLIB_PATH is not set: run cargo xtask cuda-plan")?;
    let log = PlacementLog::default();
    let reader = log.clone();
    let environment = ort::init_from(&path)?
        .with_logger(Arc::new(move |_, _, _, _, message| reader.read(message)))
        .build()?;

    let session = open(TensorElementType::Float16, builder(&environment)?);
    let nodes = log.take().all_on_cuda();
    if session.is_err() || nodes.is_err() {
        return Err(
            format!("attention in 16 bits is not placed on CUDA: {:?}, {nodes:?}", session.err()).into()
        );
    }

    let session = open(TensorElementType::Float32, builder(&environment)?);
    let seen = log.take();
    if session.is_err() || seen.all_on_cuda().is_ok() || !seen.elsewhere.contains_key(ATTENTION) {
        return Err(format!("a planted node on the CPU is not seen in the log: {seen:?}").into());
    }

    let strict = builder(&environment)?.with_disable_cpu_fallback().map_err(|error| error.to_string())?;
    let refused = open(TensorElementType::Float32, strict);
    let seen = log.take();
    if refused.is_ok() || !seen.without_kernel.contains(ATTENTION) {
        return Err(
            format!("a session with a planted node on the CPU opens without a fallback: {seen:?}").into()
        );
    }
    Ok(())
}

fn builder(environment: &Environment) -> Result<SessionBuilder, Failure> {
    let cuda = CUDA::default().build().error_on_failure();
    Ok(Session::builder(environment)?.with_execution_providers([cuda]).map_err(|error| error.to_string())?)
}

/// Opens a session of one negation, and attention that reads it.
fn open(element: TensorElementType, builder: SessionBuilder) -> Result<Session, Failure> {
    let (rows, tokens, heads, width) = (2, 1, 2, 16);
    let outlet = |name: &str, ty: TensorElementType, shape: &[i64]| {
        let dimension_symbols = SymbolicDimensions::empty(shape.len());
        Outlet::new(
            name,
            ValueType::Tensor { ty, shape: Shape::new(shape.iter().copied()), dimension_symbols },
        )
    };
    let hidden = |name| outlet(name, element, &[rows, tokens, heads * width]);
    let cache = |name| outlet(name, element, &[rows, heads, 8, width]);
    let mut graph = Graph::new()?;
    graph.set_inputs([
        hidden("input"),
        hidden("key"),
        hidden("value"),
        cache("past_key"),
        cache("past_value"),
        outlet("lengths", TensorElementType::Int32, &[rows]),
        outlet("longest", TensorElementType::Int32, &[1]),
    ])?;
    graph.set_outputs([hidden("output"), cache("present_key"), cache("present_value")])?;
    graph.add_node(Node::new("Neg", ONNX_DOMAIN, "negation", ["input"], ["query"], [])?)?;
    graph.add_node(Node::new(
        ATTENTION,
        "com.microsoft",
        "attention",
        ["query", "key", "value", "past_key", "past_value", "lengths", "longest"],
        ["output", "present_key", "present_value"],
        [Attribute::new("num_heads", heads)?, Attribute::new("kv_num_heads", heads)?],
    )?)?;
    let mut model = Model::new([Opset::new(ONNX_DOMAIN, 21)?, Opset::new("com.microsoft", 1)?])?;
    model.set_graph(graph)?;
    Ok(model.into_session(&builder)?)
}
