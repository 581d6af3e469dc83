//! Exports a graph as the bytes of an ONNX file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message as _;

use crate::error::{InvalidKind, ModelError};

use super::graph::{Graph, Node};
use super::op::{Attribute, CONTRIB, Constant};
use super::proto::{
    AttributeProto, DATA_LOCATION_EXTERNAL, DimensionProto, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto, attribute_kind,
};
use super::value::{Dim, ElementType, Shape, Source, ValueInfo};

const IR_VERSION: i64 = 10;
const OPSET_VERSION: i64 = 21;

/// A serialised model, and the folder of its weights.
#[derive(Debug, Clone)]
pub struct ExportedModel {
    /// The bytes of an ONNX file, without the weights in other files.
    pub bytes: Vec<u8>,
    /// The folder of the files with the weights; `None` if there are none.
    pub weights_dir: Option<PathBuf>,
}

/// Serialises a graph. Weights stay in their files: the model refers to file, offset and length.
///
/// # Errors
/// [`ModelError::Invalid`] if the weights are in more than one folder, which ONNX Runtime cannot map, or if
/// two values have the same name.
pub fn export(graph: &Graph) -> Result<ExportedModel, ModelError> {
    check_names(graph)?;
    let mut weights_dir = None;
    let mut initializer = Vec::new();
    for value in graph.values() {
        match &value.source {
            Source::Weight(tensor) => {
                let place = (tensor.file.as_path(), tensor.offset, tensor.bytes);
                initializer.push(external_tensor(value, place, &mut weights_dir)?);
            }
            Source::Bytes(bytes) => {
                let place =
                    (bytes.file.as_path(), bytes.offset, bytes.shape.iter().product::<usize>() as u64);
                initializer.push(external_tensor(value, place, &mut weights_dir)?);
            }
            Source::Constant(bytes) => initializer.push(inline_tensor(value, bytes)),
            Source::Input | Source::Node => {}
        }
    }
    let mut node = Vec::with_capacity(graph.nodes().len());
    for (index, operator) in graph.nodes().iter().enumerate() {
        let (proto, constants) = node_proto(graph, index, operator);
        initializer.extend(constants);
        node.push(proto);
    }
    let inputs = graph.values().iter().filter(|value| value.source == Source::Input);
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "dissent".to_owned(),
        graph: Some(GraphProto {
            node,
            name: "main".to_owned(),
            initializer,
            input: inputs.map(value_info).collect(),
            output: graph.outputs().iter().map(|&value| value_info(graph.info(value))).collect(),
        }),
        opset_import: vec![
            OperatorSetIdProto { domain: String::new(), version: OPSET_VERSION },
            OperatorSetIdProto { domain: CONTRIB.to_owned(), version: 1 },
        ],
    };
    Ok(ExportedModel { bytes: model.encode_to_vec(), weights_dir })
}

fn check_names(graph: &Graph) -> Result<(), ModelError> {
    let mut names = BTreeSet::new();
    match graph.values().iter().find(|value| !names.insert(value.name.as_str())) {
        Some(twice) => Err(ModelError::invalid(
            InvalidKind::Graph,
            format!("two values of the graph have the name {}", twice.name),
        )),
        None => Ok(()),
    }
}

fn node_proto(graph: &Graph, index: usize, node: &Node) -> (NodeProto, Vec<TensorProto>) {
    let (domain, op_type) = node.op.onnx_type();
    let name = format!("{op_type}_{index}");
    let operand = |value: &Option<_>| value.map_or_else(String::new, |value| graph.info(value).name.clone());
    let mut input: Vec<String> = node.inputs.iter().map(operand).collect();
    let constants: Vec<TensorProto> = node
        .op
        .constants()
        .iter()
        .map(|(operand, constant)| constant_operand(format!("{name}.{operand}"), constant))
        .collect();
    input.extend(constants.iter().map(|constant| constant.name.clone()));
    let proto = NodeProto {
        input,
        output: node.outputs.iter().map(operand).collect(),
        name,
        op_type: op_type.to_owned(),
        attribute: node.op.attributes().into_iter().map(|(name, value)| attribute(name, &value)).collect(),
        domain: domain.to_owned(),
    };
    (proto, constants)
}

fn constant_operand(name: String, constant: &Constant) -> TensorProto {
    let (element, dims, bytes) = match constant {
        Constant::Ints(numbers) => (
            ElementType::I64,
            vec![count(numbers.len())],
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        ),
        Constant::Scalar(number) => (ElementType::F32, Vec::new(), number.to_le_bytes().to_vec()),
    };
    TensorProto {
        dims,
        data_type: element.onnx_code(),
        name,
        raw_data: Some(bytes),
        ..TensorProto::default()
    }
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    match value {
        Attribute::Float(number) => {
            proto.kind = attribute_kind::FLOAT;
            proto.f = Some(*number);
        }
        Attribute::Int(number) => {
            proto.kind = attribute_kind::INT;
            proto.i = Some(*number);
        }
        Attribute::Ints(numbers) => {
            proto.kind = attribute_kind::INTS;
            proto.ints.clone_from(numbers);
        }
        Attribute::Text(text) => {
            proto.kind = attribute_kind::STRING;
            proto.s = Some(text.as_bytes().to_vec());
        }
    }
    proto
}

fn inline_tensor(value: &ValueInfo, bytes: &[u8]) -> TensorProto {
    TensorProto { raw_data: Some(bytes.to_vec()), ..tensor(value) }
}

/// Returns a tensor in a file, at an offset and of a length in bytes.
fn external_tensor(
    value: &ValueInfo,
    (file, offset, bytes): (&Path, u64, u64),
    weights_dir: &mut Option<PathBuf>,
) -> Result<TensorProto, ModelError> {
    let not_a_file =
        || ModelError::invalid(InvalidKind::Graph, format!("the path {} has no file name", file.display()));
    let dir = file.parent().unwrap_or_else(|| Path::new("."));
    let location = file.file_name().and_then(|name| name.to_str()).ok_or_else(not_a_file)?;
    match weights_dir {
        None => *weights_dir = Some(dir.to_owned()),
        Some(known) if known == dir => {}
        Some(known) => {
            return Err(ModelError::invalid(
                InvalidKind::Unsupported,
                format!(
                    "the weights are in two folders, {} and {}: put the shards of a checkpoint into one",
                    known.display(),
                    dir.display()
                ),
            ));
        }
    }
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
    Ok(TensorProto {
        external_data: vec![
            entry("location", location.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", bytes.to_string()),
        ],
        data_location: Some(DATA_LOCATION_EXTERNAL),
        ..tensor(value)
    })
}

fn tensor(value: &ValueInfo) -> TensorProto {
    let dims = value.shape.iter().map(|dim| match dim {
        Dim::Fixed(size) => count(*size),
        // Constants have no named dimension. The impossible size −1 makes the runtime refuse one that had.
        Dim::Named(_) => -1,
    });
    TensorProto {
        dims: dims.collect(),
        data_type: value.element.onnx_code(),
        name: value.name.clone(),
        ..TensorProto::default()
    }
}

fn value_info(value: &ValueInfo) -> ValueInfoProto {
    let tensor =
        TensorTypeProto { elem_type: value.element.onnx_code(), shape: Some(shape_proto(&value.shape)) };
    ValueInfoProto { name: value.name.clone(), value_type: Some(TypeProto { tensor: Some(tensor) }) }
}

fn shape_proto(shape: &Shape) -> TensorShapeProto {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => DimensionProto { dim_value: Some(count(*size)), dim_param: None },
        Dim::Named(name) => DimensionProto { dim_value: None, dim_param: Some((*name).to_owned()) },
    };
    TensorShapeProto { dim: shape.iter().map(dim).collect() }
}

fn count(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use crate::checkpoint::{Dtype, TensorRef};
    use crate::onnx::Value;

    use super::*;

    fn tensor_at(path: &str, offset: u64, dtype: Dtype) -> TensorRef {
        let bytes = 6 * dtype.size() as u64;
        TensorRef { file: PathBuf::from(path), offset, bytes, dtype, shape: vec![2, 3] }
    }

    fn linear(weights: &[TensorRef]) -> (Graph, Value) {
        let mut graph = Graph::new();
        let mut x = graph.input("x", ElementType::F32, vec![Dim::Named("rows"), Dim::Fixed(3)]);
        for (index, tensor) in weights.iter().enumerate() {
            let weight = graph.weight(&format!("w{index}"), tensor);
            x = graph.linear(x, weight).expect("the shapes match");
        }
        graph.output(x, "y");
        (graph, x)
    }

    fn decoded(graph: &Graph) -> GraphProto {
        let model = export(graph).expect("the graph can be exported");
        ModelProto::decode(model.bytes.as_slice()).expect("a model").graph.expect("a graph")
    }

    #[test]
    fn weights_stay_in_their_file() {
        let (graph, _) = linear(&[tensor_at("/models/m/model.safetensors", 4096, Dtype::F32)]);
        let proto = decoded(&graph);
        let weight = &proto.initializer[0];
        let entries: Vec<_> = weight.external_data.iter().map(|entry| (&*entry.key, &*entry.value)).collect();
        assert_eq!(entries, [("location", "model.safetensors"), ("offset", "4096"), ("length", "24")]);
        assert_eq!((weight.dims.as_slice(), weight.raw_data.as_ref()), (&[2, 3][..], None));
        assert_eq!(proto.node[0].input, ["x", "w0"]);
        assert_eq!(proto.output[0].name, "y");
    }

    #[test]
    fn sixteen_bit_weights_are_converted_once() {
        let tensor = tensor_at("/models/m/model.safetensors", 0, Dtype::BF16);
        let mut graph = Graph::new();
        let first = graph.weight("w", &tensor);
        assert_eq!(graph.weight("w", &tensor), first);
        let proto = decoded(&graph);
        assert_eq!(proto.node.iter().map(|node| &*node.op_type).collect::<Vec<_>>(), ["Cast"]);
        assert_eq!(proto.initializer[0].data_type, ElementType::BF16.onnx_code());
    }

    #[test]
    fn shards_in_different_folders_are_refused() {
        let shard = |dir: &str, name: &str| tensor_at(&format!("/models/{dir}/{name}"), 0, Dtype::F32);
        let mut wide = shard("m", "2.safetensors");
        wide.shape = vec![3, 2];
        let (graph, _) = linear(&[shard("m", "1.safetensors"), wide.clone()]);
        let model = export(&graph).expect("one folder");
        assert_eq!(model.weights_dir.as_deref(), Some(Path::new("/models/m")));
        wide.file = PathBuf::from("/models/other/2.safetensors");
        let (graph, _) = linear(&[shard("m", "1.safetensors"), wide]);
        let error = export(&graph).expect_err("two folders").to_string();
        assert!(error.contains("/models/m") && error.contains("/models/other"), "{error}");
    }

    #[test]
    fn a_linear_layer_of_the_wrong_width_is_refused() {
        let mut graph = Graph::new();
        let x = graph.input("x", ElementType::F32, vec![Dim::Named("rows"), Dim::Fixed(2)]);
        let weight = graph.weight("w", &tensor_at("/m", 0, Dtype::F32));
        let error = graph.linear(x, weight).expect_err("2 is not 3");
        assert_eq!(error.invalid_kind(), Some(InvalidKind::ShapeMismatch), "{error}");
    }

    #[test]
    fn duplicate_names_are_refused() {
        let (mut graph, y) = linear(&[tensor_at("/m", 0, Dtype::F32)]);
        let other = graph.neg(y);
        graph.output(other, "w0");
        let error = export(&graph).expect_err("w0 is the weight");
        assert_eq!(error.invalid_kind(), Some(InvalidKind::Graph), "{error}");
        assert!(error.to_string().contains("w0"), "{error}");
    }

    #[test]
    fn inputs_and_outputs_can_be_outputs_again() {
        let mut graph = Graph::new();
        let x = graph.input("x", ElementType::F32, vec![Dim::Fixed(2)]);
        let y = graph.neg(x);
        for (value, name) in [(x, "same"), (y, "first"), (y, "second")] {
            graph.output(value, name);
        }
        let proto = decoded(&graph);
        let outputs: Vec<&str> = proto.output.iter().map(|output| &*output.name).collect();
        assert_eq!((&*proto.input[0].name, outputs), ("x", vec!["same", "first", "second"]));
    }

    #[test]
    fn reshaping_keeps_named_dimensions() {
        let mut graph = Graph::new();
        let x =
            graph.input("x", ElementType::F32, vec![Dim::Named("batch"), Dim::Named("seq"), Dim::Fixed(6)]);
        let y = graph
            .reshape(x, vec![Dim::Named("batch"), Dim::Named("seq"), Dim::Fixed(2), Dim::Fixed(3)])
            .expect("the same elements");
        let rows = graph.reshape(y, vec![Dim::Named("rows"), Dim::Fixed(6)]).expect("the same elements");
        graph.output(rows, "rows");
        let shapes: Vec<Vec<i64>> = decoded(&graph)
            .initializer
            .iter()
            .map(|shape| shape.raw_data.as_deref().unwrap_or_default())
            .map(|bytes| bytes.as_chunks::<8>().0.iter().map(|&size| i64::from_le_bytes(size)).collect())
            .collect();
        assert_eq!(shapes, [vec![0, 0, 2, 3], vec![-1, 6]]);
    }
}
