//! A graph under construction: values with shapes, and the operators between them.
//!
//! Each method adds one operator, checks the shapes of its operands and computes the shapes of its results.
//! Code that describes a model reads like the model, and fails where the mistake is.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::checkpoint::TensorRef;
use crate::error::{InvalidKind, ModelError};

use super::op::Op;
use super::value::{Dim, ElementType, Shape, Source, Value, ValueInfo};

mod attention;
mod elementwise;
mod norms;
mod packed;
mod products;
mod reductions;
mod rows;
mod shapes;

pub use attention::AttentionCache;

/// One operator with its operands. `None` stands for an omitted optional operand.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The operator.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<Option<Value>>,
    /// Its results.
    pub outputs: Vec<Option<Value>>,
}

/// A graph of operators in topological order.
///
/// # Examples
/// ```
/// use dissent_models::InvalidKind;
/// use dissent_models::onnx::{Dim, ElementType, Graph};
///
/// let mut graph = Graph::new();
/// let x = graph.input("x", ElementType::F32, vec![Dim::Named("rows"), Dim::Fixed(2)]);
/// let weight = graph.constant_f32("weight", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
/// let y = graph.linear(x, weight)?;
/// graph.output(y, "y");
/// assert_eq!(graph.info(y).shape, [Dim::Named("rows"), Dim::Fixed(3)]);
///
/// // Shapes are checked where the operator is added.
/// let error = graph.linear(y, weight).expect_err("the weight has 2 columns, y has 3");
/// assert_eq!(error.invalid_kind(), Some(InvalidKind::ShapeMismatch));
/// # Ok::<(), dissent_models::ModelError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Graph {
    values: Vec<ValueInfo>,
    nodes: Vec<Node>,
    outputs: Vec<Value>,
    /// Scalars by their bits, so that equal scalars share a value.
    scalars: BTreeMap<u32, Value>,
    /// The sizes of named dimensions, `[1]` each, that an operator needed.
    sizes: BTreeMap<&'static str, Value>,
    /// Shapes that are inputs.
    shapes: Vec<(Shape, Value)>,
    /// The sums of the blocks of a value, by the elements of a block.
    block_sums: BTreeMap<(Value, usize), Value>,
    /// Finished segments, as ranges of nodes.
    segments: Vec<Range<usize>>,
    segment_start: Option<usize>,
}

impl Graph {
    /// Returns an empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the name, element type, shape and source of a value.
    #[must_use]
    pub fn info(&self, value: Value) -> &ValueInfo {
        &self.values[value.index()]
    }

    /// Returns all values, in the order of creation.
    #[must_use]
    pub fn values(&self) -> &[ValueInfo] {
        &self.values
    }

    /// Returns all nodes, in topological order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the outputs of the graph.
    #[must_use]
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// Adds an input of that name.
    pub fn input(&mut self, name: impl Into<String>, element: ElementType, shape: Shape) -> Value {
        self.push(ValueInfo { name: name.into(), element, shape, source: Source::Input })
    }

    /// Adds an input that holds a shape, as a vector of 64-bit integers. Reshapes and expansions to that
    /// shape read it. Without it, a node computes the shape: beside a GPU, ONNX Runtime runs such a node on
    /// the CPU.
    pub fn shape_input(&mut self, name: impl Into<String>, shape: Shape) -> Value {
        let input = self.input(name, ElementType::I64, vec![Dim::Fixed(shape.len())]);
        self.shapes.push((shape, input));
        input
    }

    /// Adds a weight from a file, as 32-bit floats. Weights of another type are converted when the session
    /// starts.
    pub fn weight(&mut self, name: &str, tensor: &TensorRef) -> Value {
        self.weight_in(ElementType::F32, name, tensor)
    }

    /// Adds a weight from a file, in a floating-point type. If it is stored in another type, it is converted
    /// when the session starts.
    pub fn weight_in(&mut self, element: ElementType, name: &str, tensor: &TensorRef) -> Value {
        let stored = self.stored_weight(name, tensor);
        if self.info(stored).element == element {
            return stored;
        }
        let name = if element == ElementType::F32 { name.to_owned() } else { format!("{name}.{element:?}") };
        self.named(&name).unwrap_or_else(|| {
            let cast = self.cast(stored, element);
            self.rename(cast, &name)
        })
    }

    fn stored_weight(&mut self, name: &str, tensor: &TensorRef) -> Value {
        let element = ElementType::from(tensor.dtype);
        let name = if element == ElementType::F32 { name.to_owned() } else { format!("{name}.stored") };
        self.named(&name).unwrap_or_else(|| {
            let shape = tensor.shape.iter().map(|&size| Dim::Fixed(size)).collect();
            self.push(ValueInfo { name, element, shape, source: Source::Weight(tensor.clone()) })
        })
    }

    fn named(&self, name: &str) -> Option<Value> {
        self.values.iter().position(|value| value.name == name).map(Value::new)
    }

    /// Adds a constant of 32-bit floats, row-major.
    pub fn constant_f32(&mut self, name: &str, shape: &[usize], data: &[f32]) -> Value {
        let bytes = data.iter().flat_map(|number| number.to_le_bytes()).collect();
        let shape = shape.iter().map(|&size| Dim::Fixed(size)).collect();
        self.push(ValueInfo {
            name: name.to_owned(),
            element: ElementType::F32,
            shape,
            source: Source::Constant(bytes),
        })
    }

    /// Adds a constant of bytes, row-major.
    #[cfg(test)]
    pub(in crate::onnx) fn constant_bytes(&mut self, name: &str, shape: &[usize], bytes: Vec<u8>) -> Value {
        let shape = shape.iter().map(|&size| Dim::Fixed(size)).collect();
        let source = Source::Constant(bytes);
        self.push(ValueInfo { name: name.to_owned(), element: ElementType::U8, shape, source })
    }

    /// Returns a constant vector of one number; equal vectors share a value.
    pub fn constant_of(&mut self, name: &str, length: usize, number: f32) -> Value {
        let name = format!("{name}_{length}");
        self.named(&name).unwrap_or_else(|| self.constant_f32(&name, &[length], &vec![number; length]))
    }

    /// Returns the constant scalar `[]` in the element type of x, for an operator on both.
    pub(in crate::onnx) fn scalar_for(&mut self, x: Value, number: f32) -> Value {
        let element = self.info(x).element;
        let scalar = self.constant_scalar(number);
        if element == ElementType::F32 {
            return scalar;
        }
        let name = format!("{}.{element:?}", self.info(scalar).name);
        self.named(&name).unwrap_or_else(|| {
            let cast = self.cast(scalar, element);
            self.rename(cast, &name)
        })
    }

    /// Returns the constant scalar `[]`; equal scalars share a value.
    pub fn constant_scalar(&mut self, number: f32) -> Value {
        if let Some(&known) = self.scalars.get(&number.to_bits()) {
            return known;
        }
        let name = format!("scalar_{}", self.values.len());
        let value = self.constant_f32(&name, &[], &[number]);
        self.scalars.insert(number.to_bits(), value);
        value
    }

    /// Returns a vector of constant 64-bit integers.
    fn constant_integers(&mut self, numbers: &[i64]) -> Value {
        self.push(ValueInfo {
            name: format!("integers_{}", self.values.len()),
            element: ElementType::I64,
            shape: vec![Dim::Fixed(numbers.len())],
            source: Source::Constant(numbers.iter().flat_map(|number| number.to_le_bytes()).collect()),
        })
    }

    /// Begins a segment. Up to [`Graph::end_segment`], inner values are not kept for the backward pass but
    /// recomputed in it: see [`super::autodiff::gradients`]. Segments do not nest: beginning one ends the
    /// previous one.
    pub fn begin_segment(&mut self) {
        self.end_segment();
        self.segment_start = Some(self.nodes.len());
    }

    /// Ends the segment that [`Graph::begin_segment`] began.
    pub fn end_segment(&mut self) {
        if let Some(start) = self.segment_start.take() {
            self.segments.push(start..self.nodes.len());
        }
    }

    /// Makes a value an output of that name. An input or an output that already has a name is copied first.
    pub fn output(&mut self, value: Value, name: &str) {
        let taken = self.info(value).source != Source::Node || self.outputs.contains(&value);
        let value = if taken { self.stop_gradient(value) } else { value };
        self.values[value.index()].name = name.to_owned();
        self.outputs.push(value);
    }

    pub(in crate::onnx) fn shape(&self, value: Value) -> &Shape {
        &self.info(value).shape
    }

    /// Returns the nodes of each finished segment.
    pub(in crate::onnx) fn segments(&self) -> &[Range<usize>] {
        &self.segments
    }

    /// Adds a node that reads other values and makes new values of the same types and shapes.
    pub(in crate::onnx) fn copy_of(&mut self, node: &Node, inputs: Vec<Option<Value>>) -> usize {
        let outputs = node.outputs.iter().map(|output| {
            let info = self.info((*output)?);
            let (element, shape) = (info.element, info.shape.clone());
            Some(self.result(element, shape))
        });
        let outputs = outputs.collect();
        self.nodes.push(Node { op: node.op.clone(), inputs, outputs });
        self.nodes.len() - 1
    }

    /// Reorders the nodes from `first` on. The new order is given by their indices and must also be
    /// topological.
    pub(in crate::onnx) fn reorder(&mut self, first: usize, order: &[usize]) {
        let mut nodes: Vec<Option<Node>> = self.nodes.drain(first..).map(Some).collect();
        self.nodes.extend(order.iter().filter_map(|&index| nodes[index - first].take()));
    }

    /// Returns an optional output of a node. The node makes it from now on.
    pub(in crate::onnx) fn optional_output(&mut self, node: usize, slot: usize, shape: Shape) -> Value {
        if let Some(&Some(known)) = self.nodes[node].outputs.get(slot) {
            return known;
        }
        let value = self.result(ElementType::F32, shape);
        let outputs = &mut self.nodes[node].outputs;
        outputs.resize(outputs.len().max(slot + 1), None);
        outputs[slot] = Some(value);
        value
    }

    fn push(&mut self, info: ValueInfo) -> Value {
        self.values.push(info);
        Value::new(self.values.len() - 1)
    }

    pub(in crate::onnx) fn result(&mut self, element: ElementType, shape: Shape) -> Value {
        let name = format!("value_{}", self.values.len());
        self.push(ValueInfo { name, element, shape, source: Source::Node })
    }

    pub(in crate::onnx) fn node(
        &mut self,
        op: Op,
        inputs: &[Value],
        element: ElementType,
        shape: Shape,
    ) -> Value {
        let output = self.result(element, shape);
        self.nodes.push(Node {
            op,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        output
    }

    pub(in crate::onnx) fn same_shape(&mut self, op: Op, inputs: &[Value]) -> Value {
        let ValueInfo { element, shape, .. } = self.info(inputs[0]).clone();
        self.node(op, inputs, element, shape)
    }

    fn rename(&mut self, value: Value, name: &str) -> Value {
        name.clone_into(&mut self.values[value.index()].name);
        value
    }

    fn axis(&self, what: &str, x: Value, axis: i64) -> Result<usize, ModelError> {
        let rank = self.shape(x).len();
        let counted = if axis < 0 {
            axis.unsigned_abs().try_into().ok().and_then(|back| rank.checked_sub(back))
        } else {
            usize::try_from(axis).ok()
        };
        counted.filter(|&axis| axis < rank).ok_or_else(|| self.no_axis(what, x, axis))
    }

    fn no_axis(&self, what: &str, x: Value, axis: i64) -> ModelError {
        let (name, shape) = (&self.info(x).name, self.shape(x));
        ModelError::invalid(
            InvalidKind::ShapeMismatch,
            format!("axis {axis} of {what} is out of range: {name} has shape {shape:?}"),
        )
    }

    /// Returns the element type of all operands of an operator. An error if they differ.
    pub(in crate::onnx) fn same_element(
        &self,
        what: &str,
        values: &[Value],
    ) -> Result<ElementType, ModelError> {
        let element = self.info(values[0]).element;
        if values.iter().all(|&value| self.info(value).element == element) {
            return Ok(element);
        }
        let types: Vec<String> = values
            .iter()
            .map(|&value| format!("{} has elements {:?}", self.info(value).name, self.info(value).element))
            .collect();
        Err(ModelError::invalid(
            InvalidKind::ShapeMismatch,
            format!("invalid element types for {what}: {}", types.join(", ")),
        ))
    }

    pub(in crate::onnx) fn mismatch(&self, what: &str, values: &[Value]) -> ModelError {
        let shapes: Vec<String> = values
            .iter()
            .map(|&value| format!("{} has shape {:?}", self.info(value).name, self.shape(value)))
            .collect();
        ModelError::invalid(
            InvalidKind::ShapeMismatch,
            format!("invalid shapes for {what}: {}", shapes.join(", ")),
        )
    }
}
