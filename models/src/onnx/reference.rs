//! The reference interpreter of graphs, in 64-bit floats, for tests.
//!
//! Every operator is written as plainly as its definition, over row-major tensors. Integers and booleans are
//! kept as floats, which hold them exactly.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};

use crate::checkpoint::TensorRef;
use crate::checkpoint::weights::decode_f32;

use super::graph::{Graph, Node};
use super::op::Op;
use super::value::{Dim, ElementType, Source, Value};
use elementwise::{truth, zip};
use tensor::Tensor;

mod attention;
mod elementwise;
mod norms;
mod packed;
mod products;
mod rows;
mod shapes;
pub(crate) mod tensor;

/// The values of one run of a graph.
pub(crate) struct Run {
    values: Vec<Option<Tensor>>,
}

impl Run {
    pub(crate) fn get(&self, value: Value) -> &Tensor {
        self.values[value.index()].as_ref().expect("the run made this value")
    }
}

/// Runs a graph on inputs by name. Weights are read from their files.
///
/// # Panics
/// If an input is missing, or if an operator makes another shape than the graph says.
pub(crate) fn evaluate(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Run {
    let mut sizes = BTreeMap::new();
    let mut values: Vec<Option<Tensor>> = graph
        .values()
        .iter()
        .map(|info| match &info.source {
            Source::Input => {
                let tensor = inputs.get(&info.name).unwrap_or_else(|| panic!("{} is not given", info.name));
                Some(tensor.clone())
            }
            Source::Constant(bytes) => Some(Tensor::new(fixed(&info.shape), decode(info.element, bytes))),
            Source::Weight(place) => Some(Tensor::new(fixed(&info.shape), read(place))),
            Source::Bytes(place) => {
                panic!("{} is not read: tests have packed matrices as constants", place.file.display())
            }
            Source::Node => None,
        })
        .collect();
    for (info, value) in graph.values().iter().zip(&values) {
        if let (Source::Input, Some(tensor)) = (&info.source, value) {
            check_shape(&info.name, &info.shape, &tensor.shape, &mut sizes);
        }
    }
    for node in graph.nodes() {
        let results = {
            let operand = |value: &Option<Value>| {
                value.map(|value| values[value.index()].as_ref().expect("operands come first"))
            };
            run(node, &node.inputs.iter().map(operand).collect::<Vec<_>>())
        };
        for (output, result) in node.outputs.iter().zip(results) {
            if let Some(output) = output {
                let info = graph.info(*output);
                // A name for an inner dimension may stand for several sizes, so only rank and element count
                // are checked.
                check_shape(&info.name, &info.shape, &result.shape, &mut BTreeMap::new());
                values[output.index()] = Some(result);
            }
        }
    }
    Run { values }
}

fn check_shape(name: &str, declared: &[Dim], found: &[usize], sizes: &mut BTreeMap<&'static str, usize>) {
    assert_eq!(declared.len(), found.len(), "{name} {declared:?} is {found:?}");
    for (dim, &size) in declared.iter().zip(found) {
        let known = match dim {
            Dim::Fixed(known) => *known,
            Dim::Named(dim) => *sizes.entry(dim).or_insert(size),
        };
        assert_eq!(known, size, "{name} {declared:?} is {found:?}");
    }
}

fn fixed(shape: &[Dim]) -> Vec<usize> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Named(name) => panic!("a constant has the open dimension {name}"),
    };
    shape.iter().map(size).collect()
}

#[expect(clippy::cast_precision_loss, reason = "integers in graphs are sizes and indices")]
fn decode(element: ElementType, bytes: &[u8]) -> Vec<f64> {
    match element {
        ElementType::F32 => {
            bytes.as_chunks::<4>().0.iter().map(|&chunk| f64::from(f32::from_le_bytes(chunk))).collect()
        }
        ElementType::I64 => {
            bytes.as_chunks::<8>().0.iter().map(|&chunk| i64::from_le_bytes(chunk) as f64).collect()
        }
        ElementType::I32 => {
            bytes.as_chunks::<4>().0.iter().map(|&chunk| f64::from(i32::from_le_bytes(chunk))).collect()
        }
        ElementType::U8 => bytes.iter().copied().map(f64::from).collect(),
        ElementType::F16 | ElementType::BF16 | ElementType::Bool => {
            panic!("no constant is of type {element:?}")
        }
    }
}

fn read(place: &TensorRef) -> Vec<f64> {
    let mut bytes = vec![0; usize::try_from(place.bytes).expect("a size")];
    let mut file = std::fs::File::open(&place.file).expect("the weights' file");
    file.seek(SeekFrom::Start(place.offset)).expect("the weights' place");
    file.read_exact(&mut bytes).expect("the weights");
    decode_f32(place.dtype, &bytes).into_iter().map(f64::from).collect()
}

fn run(node: &Node, operands: &[Option<&Tensor>]) -> Vec<Tensor> {
    let at = |slot: usize| operands[slot].expect("the operand is there");
    let one = |tensor: Tensor| vec![tensor];
    match &node.op {
        Op::Add => one(zip(at(0), at(1), |x, y| x + y)),
        Op::Sub => one(zip(at(0), at(1), |x, y| x - y)),
        Op::Mul => one(zip(at(0), at(1), |x, y| x * y)),
        Op::Div => one(zip(at(0), at(1), |x, y| x / y)),
        Op::Min => one(zip(at(0), at(1), f64::min)),
        Op::Max => one(zip(at(0), at(1), f64::max)),
        Op::Greater => one(zip(at(0), at(1), |x, y| truth(x > y))),
        Op::LessOrEqual => one(zip(at(0), at(1), |x, y| truth(x <= y))),
        Op::Where => one(elementwise::choose(at(0), at(1), at(2))),
        Op::Neg => one(at(0).map(|x| -x)),
        Op::Exp => one(at(0).map(f64::exp)),
        Op::Log => one(at(0).map(f64::ln)),
        Op::Sqrt => one(at(0).map(f64::sqrt)),
        Op::Reciprocal => one(at(0).map(f64::recip)),
        Op::Sigmoid => one(at(0).map(elementwise::sigmoid)),
        Op::Softplus => one(at(0).map(|x| x.max(0.0) + (-x.abs()).exp().ln_1p())),
        Op::Tanh => one(at(0).map(f64::tanh)),
        Op::Abs => one(at(0).map(f64::abs)),
        Op::Sign => one(at(0).map(|x| truth(x > 0.0) - truth(x < 0.0))),
        Op::Erf => one(at(0).map(elementwise::erf)),
        Op::Silu => one(at(0).map(|x| x * elementwise::sigmoid(x))),
        Op::Gelu { tanh: false } => one(at(0).map(elementwise::gelu)),
        Op::Gelu { tanh: true } => one(at(0).map(elementwise::gelu_tanh)),
        &Op::Clip { low, high } => one(at(0).map(|x| x.clamp(f64::from(low), f64::from(high)))),
        &Op::Cast { to } => one(elementwise::cast(at(0), to)),
        Op::StopGradient { .. } => one(at(0).clone()),
        Op::Linear => one(products::matmul(at(0), false, at(1), true, 1.0)),
        &Op::MatMul { transpose_a, transpose_b, alpha } => {
            one(products::matmul(at(0), transpose_a, at(1), transpose_b, f64::from(alpha)))
        }
        Op::PackedLinear { blocks, .. } => {
            one(products::matmul(at(0), false, &packed::matrix(at(1), at(2), *blocks), true, 1.0))
        }
        Op::PackedGather(blocks) => one(rows::gather(&packed::matrix(at(0), at(2), *blocks), at(1))),
        Op::Gather | Op::GatherPaired { .. } => one(rows::gather(at(0), at(1))),
        Op::GatherElements => one(rows::gather_elements(at(0), at(1))),
        Op::ScatterAdd { axis } => one(rows::scatter_add(at(0), at(1), at(2), *axis)),
        Op::ReplaceRows => one(rows::replace_rows(at(0), at(1), at(2))),
        Op::Reshape { shape } => one(shapes::reshape(at(0), shape)),
        Op::ReshapeTo => one(shapes::reshape(at(0), &at(1).integers())),
        Op::Size { axis } => one(Tensor::of_sizes(&at(0).shape[*axis..=*axis])),
        Op::ShapeOf => one(Tensor::of_sizes(&at(0).shape)),
        Op::Expand => one(at(0).broadcast_to(&tensor::joint(&at(0).shape, &at(1).sizes()))),
        Op::Transpose { perm } => one(shapes::transpose(at(0), perm)),
        Op::Unsqueeze { axis } => one(shapes::unsqueeze(at(0), *axis)),
        Op::Squeeze { axis } => one(shapes::squeeze(at(0), *axis)),
        Op::Concat { axis } => {
            one(shapes::concat(&operands.iter().flatten().copied().collect::<Vec<_>>(), *axis))
        }
        Op::Split { axis, sizes } => shapes::split(at(0), *axis, sizes),
        Op::Slice { axis, start, end } => one(shapes::slice(at(0), *axis, *start, *end)),
        Op::ReduceSum { axes, keep } => one(shapes::sum(at(0), axes, *keep)),
        Op::ReduceMean { axes, keep } => one(shapes::mean(at(0), axes, *keep)),
        Op::ReduceMax { axis } => one(shapes::greatest(at(0), *axis)),
        Op::Softmax => one(norms::softmax(at(0))),
        Op::LogSoftmax => one(norms::log_softmax(at(0))),
        Op::RmsNorm { epsilon } => norms::rms_norm(at(0), at(1), f64::from(*epsilon)),
        Op::AddRmsNorm { epsilon } => norms::add_rms_norm(at(0), at(1), at(2), f64::from(*epsilon)),
        Op::LayerNorm { epsilon } => norms::layer_norm(at(0), at(1), at(2), f64::from(*epsilon)),
        &Op::Rotary(heads) => one(attention::rotary(at(0), at(1), (at(2), at(3)), heads)),
        &Op::GroupQueryAttention { heads, kv_heads, rule, .. } => {
            attention::attend(operands, heads, kv_heads, rule)
        }
    }
}
