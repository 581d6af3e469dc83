//! The sizes of the values of one run.

use std::collections::BTreeMap;

use crate::error::{InvalidKind, ModelError};
use crate::onnx::graph::{Graph, Node};
use crate::onnx::value::{Dim, Source, Value};

/// The named sizes of a run: those of the graph's inputs.
pub(crate) type NamedSizes = BTreeMap<&'static str, usize>;

/// Returns the dimensions of every value, by its index.
///
/// # Errors
/// [`ModelError::Invalid`] if a size is missing.
pub(super) fn dimensions(graph: &Graph, sizes: &NamedSizes) -> Result<Vec<Vec<usize>>, ModelError> {
    let mut dimensions: Vec<Vec<usize>> = vec![Vec::new(); graph.values().len()];
    let given = |dim: &Dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Named(name) => sizes.get(name).copied(),
    };
    for (index, info) in graph.values().iter().enumerate().filter(|(_, info)| info.source != Source::Node) {
        dimensions[index] = info
            .shape
            .iter()
            .map(|dim| given(dim).ok_or_else(|| missing(&info.name, dim)))
            .collect::<Result<_, _>>()?;
    }
    for node in graph.nodes() {
        for &output in node.outputs.iter().flatten() {
            dimensions[output.index()] = of_result(graph, node, output, &dimensions, given)?;
        }
    }
    Ok(dimensions)
}

/// Returns the dimensions of a result. A name has the size that it has in an operand; a reshape infers the
/// size of one name.
fn of_result(
    graph: &Graph,
    node: &Node,
    output: Value,
    dimensions: &[Vec<usize>],
    given: impl Fn(&Dim) -> Option<usize>,
) -> Result<Vec<usize>, ModelError> {
    let info = graph.info(output);
    let in_operands = |dim: &Dim| {
        node.inputs.iter().flatten().find_map(|input| {
            let axis = graph.info(*input).shape.iter().position(|other| other == dim)?;
            dimensions[input.index()].get(axis).copied()
        })
    };
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Named(_) => in_operands(dim).or_else(|| given(dim)),
    };
    let known: Vec<Option<usize>> = info.shape.iter().map(size).collect();
    let product: usize = known.iter().flatten().product();
    let elements =
        node.inputs.iter().flatten().next().map(|input| dimensions[input.index()].iter().product());
    let inferred = elements.map(|elements: usize| elements / product.max(1));
    let is_inferred = known.iter().filter(|size| size.is_none()).count() == 1;
    let dims = info.shape.iter().zip(known);
    dims.map(|(dim, size)| size.or(inferred.filter(|_| is_inferred)).ok_or_else(|| missing(&info.name, dim)))
        .collect()
}

fn missing(value: &str, dim: &Dim) -> ModelError {
    ModelError::invalid(InvalidKind::Graph, format!("no size is given for the dimension {dim:?} of {value}"))
}
