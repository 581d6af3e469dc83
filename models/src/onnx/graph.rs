//! A graph under construction: values with shapes, and the operators between them.
//!
//! Each method adds one operator, checks the shapes that it is given and works out those that it makes, so that code that
//! describes a model reads like the model and fails where the mistake is.

use crate::checkpoint::{Dtype, TensorRef};
use crate::error::ModelError;

use super::op::Op;

/// A value of one graph: an input, a weight, or what an operator computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(usize);

/// The element types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
}

impl ElementType {
    /// The number that ONNX gives the type.
    #[must_use]
    pub const fn onnx_code(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::F16 => 10,
            Self::BF16 => 16,
        }
    }
}

impl From<Dtype> for ElementType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
        }
    }
}

/// One dimension of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Known when the graph is built.
    Fixed(usize),
    /// Known when the graph runs; equal names are equal sizes.
    Named(&'static str),
}

/// The dimensions of a value, outermost first.
pub type Shape = Vec<Dim>;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Given at every run.
    Input,
    /// A constant with its little-endian bytes.
    Constant(Vec<u8>),
    /// A constant that lies in a file.
    Weight(TensorRef),
    /// The result of a node.
    Node,
}

/// What is known of a value.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueInfo {
    /// Its name, unique in the graph.
    pub name: String,
    /// Its element type.
    pub element: ElementType,
    /// Its shape.
    pub shape: Shape,
    /// Where it comes from.
    pub source: Source,
}

/// One operator with its operands; `None` is an optional operand left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The operator.
    pub op: Op,
    /// What it reads.
    pub inputs: Vec<Option<Value>>,
    /// What it makes.
    pub outputs: Vec<Option<Value>>,
}

/// A graph of operators in the order in which they can run.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    values: Vec<ValueInfo>,
    nodes: Vec<Node>,
    outputs: Vec<Value>,
}

/// The operands of [`Graph::group_query_attention`] besides query, key and value.
#[derive(Debug, Clone, Copy)]
pub struct AttentionCache {
    /// `[batch, kv_heads, capacity, head_dim]`.
    pub past_key: Value,
    /// `[batch, kv_heads, capacity, head_dim]`.
    pub past_value: Value,
    /// `[batch]`, each row's total length − 1, 32-bit integers.
    pub seqlens_k: Value,
    /// `[1]`, the longest total length, a 32-bit integer.
    pub total_sequence_length: Value,
    /// `cos` and `sin`, `[positions, rotary_dims / 2]`, to rotate inside the operator.
    pub rotary: Option<(Value, Value)>,
}

impl Graph {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of a value of this graph.
    #[must_use]
    pub fn info(&self, value: Value) -> &ValueInfo {
        &self.values[value.0]
    }

    /// Every value, in the order of creation.
    #[must_use]
    pub fn values(&self) -> &[ValueInfo] {
        &self.values
    }

    /// Every node, in an order in which they can run.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The values that a run gives back.
    #[must_use]
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// An input of that name.
    pub fn input(&mut self, name: impl Into<String>, element: ElementType, shape: Shape) -> Value {
        self.push(ValueInfo { name: name.into(), element, shape, source: Source::Input })
    }

    /// A weight that lies in a file, as 32-bit floats: weights of another type are converted when the session starts.
    pub fn weight(&mut self, name: &str, tensor: &TensorRef) -> Value {
        if let Some(known) = self.values.iter().position(|value| value.name == name) {
            return Value(known);
        }
        let shape = tensor.shape.iter().map(|&size| Dim::Fixed(size)).collect::<Shape>();
        let element = ElementType::from(tensor.dtype);
        let source = Source::Weight(tensor.clone());
        if element == ElementType::F32 {
            return self.push(ValueInfo { name: name.to_owned(), element, shape, source });
        }
        let stored =
            self.push(ValueInfo { name: format!("{name}.stored"), element, shape: shape.clone(), source });
        let cast = self.node(Op::Cast { to: ElementType::F32 }, &[stored], ElementType::F32, shape);
        self.rename(cast, name)
    }

    /// A constant of 32-bit floats, row-major.
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

    /// Makes a value an output of that name.
    pub fn output(&mut self, value: Value, name: &str) {
        let value = self.rename(value, name);
        self.outputs.push(value);
    }

    /// x + y; one shape must end in the other.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn add(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        let shape = self.broadcast("an addition", x, y)?;
        Ok(self.node(Op::Add, &[x, y], ElementType::F32, shape))
    }

    /// x · y element by element; one shape must end in the other.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn mul(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        let shape = self.broadcast("a product", x, y)?;
        Ok(self.node(Op::Mul, &[x, y], ElementType::F32, shape))
    }

    /// x · wᵀ, for x `[.., in]` and w `[out, in]`.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn linear(&mut self, x: Value, weight: Value) -> Result<Value, ModelError> {
        let [outputs, inputs] = self.shape(weight)[..] else {
            return Err(self.mismatch("the weight of a linear layer", &[weight]));
        };
        let mut shape = self.shape(x).clone();
        if shape.last() != Some(&inputs) {
            return Err(self.mismatch("a linear layer", &[x, weight]));
        }
        shape.pop();
        shape.push(outputs);
        Ok(self.node(Op::Linear, &[x, weight], ElementType::F32, shape))
    }

    /// Rows of a table `[n, ..]` by their indices.
    pub fn gather(&mut self, table: Value, indices: Value) -> Value {
        let mut shape = self.shape(indices).clone();
        shape.extend(self.shape(table).iter().skip(1));
        let element = self.info(table).element;
        self.node(Op::Gather, &[table, indices], element, shape)
    }

    /// x in another shape; each dimension is fixed, or named as in x. At most one named dimension may stand for a size
    /// that x does not have under that name.
    pub fn reshape(&mut self, x: Value, shape: Shape) -> Value {
        let old = self.shape(x).clone();
        let target = shape
            .iter()
            .enumerate()
            .map(|(axis, dim)| match dim {
                Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
                // 0 copies the dimension at the same place; anything else has to be inferred.
                Dim::Named(_) if old.get(axis) == Some(dim) => 0,
                Dim::Named(_) => -1,
            })
            .collect();
        let element = self.info(x).element;
        self.node(Op::Reshape { shape: target }, &[x], element, shape)
    }

    /// Equal parts of x along its last axis.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the last dimension cannot be cut so.
    pub fn split_last(&mut self, x: Value, parts: usize) -> Result<Vec<Value>, ModelError> {
        let mut shape = self.shape(x).clone();
        match shape.pop() {
            Some(Dim::Fixed(size)) if parts > 0 && size % parts == 0 => shape.push(Dim::Fixed(size / parts)),
            Some(_) | None => return Err(self.mismatch("a split", &[x])),
        }
        let element = self.info(x).element;
        let outputs: Vec<Value> = (0..parts).map(|_| self.result(element, shape.clone())).collect();
        self.nodes.push(Node {
            op: Op::Split { axis: -1, parts },
            inputs: vec![Some(x)],
            outputs: outputs.iter().copied().map(Some).collect(),
        });
        Ok(outputs)
    }

    /// x · σ(x).
    pub fn silu(&mut self, x: Value) -> Value {
        self.same_shape(Op::Silu, &[x])
    }

    /// x · Φ(x), or its tanh approximation.
    pub fn gelu(&mut self, x: Value, tanh: bool) -> Value {
        self.same_shape(Op::Gelu { tanh }, &[x])
    }

    /// Root-mean-square norm over the last axis.
    pub fn rms_norm(&mut self, x: Value, weight: Value, epsilon: f32) -> Value {
        self.same_shape(Op::RmsNorm { epsilon }, &[x, weight])
    }

    /// x + y, and the root-mean-square norm of that: `(norm, sum)`.
    pub fn add_rms_norm(&mut self, x: Value, y: Value, weight: Value, epsilon: f32) -> (Value, Value) {
        let shape = self.shape(x).clone();
        let norm = self.result(ElementType::F32, shape.clone());
        let sum = self.result(ElementType::F32, shape);
        self.nodes.push(Node {
            op: Op::AddRmsNorm { epsilon },
            inputs: vec![Some(x), Some(y), Some(weight)],
            outputs: vec![Some(norm), None, None, Some(sum)],
        });
        (norm, sum)
    }

    /// Layer norm over the last axis.
    pub fn layer_norm(&mut self, x: Value, weight: Value, bias: Value, epsilon: f32) -> Value {
        self.same_shape(Op::LayerNorm { epsilon }, &[x, weight, bias])
    }

    /// Rotary position embedding of `[batch, seq, heads · head_dim]` at given positions `[batch, seq]`.
    pub fn rotary(
        &mut self,
        x: Value,
        positions: Value,
        (cos, sin): (Value, Value),
        heads: usize,
        rotary_dims: usize,
    ) -> Value {
        self.same_shape(Op::Rotary { heads, rotary_dims }, &[x, positions, cos, sin])
    }

    /// Causal attention over a cache: `(output, present_key, present_value)`. The head counts are read off the shapes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn group_query_attention(
        &mut self,
        query: Value,
        key: Value,
        value: Value,
        cache: &AttentionCache,
    ) -> Result<(Value, Value, Value), ModelError> {
        let cache_shape = self.shape(cache.past_key).clone();
        let (&[_, Dim::Fixed(kv_heads), _, Dim::Fixed(head_dim)], Some(&Dim::Fixed(width))) =
            (&cache_shape[..], self.shape(query).last())
        else {
            return Err(self.mismatch("attention", &[query, cache.past_key]));
        };
        if head_dim == 0
            || width % head_dim != 0
            || self.shape(key).last() != Some(&Dim::Fixed(kv_heads * head_dim))
        {
            return Err(self.mismatch("attention", &[query, key, cache.past_key]));
        }
        let op =
            Op::GroupQueryAttention { heads: width / head_dim, kv_heads, rotary: cache.rotary.is_some() };
        let output = self.result(ElementType::F32, self.shape(query).clone());
        let present_key = self.result(ElementType::F32, cache_shape.clone());
        let present_value = self.result(ElementType::F32, cache_shape);
        let operands = [query, key, value, cache.past_key, cache.past_value, cache.seqlens_k];
        let mut inputs: Vec<_> =
            operands.into_iter().chain([cache.total_sequence_length]).map(Some).collect();
        inputs.extend(cache.rotary.iter().flat_map(|&(cos, sin)| [Some(cos), Some(sin)]));
        let outputs = vec![Some(output), Some(present_key), Some(present_value)];
        self.nodes.push(Node { op, inputs, outputs });
        Ok((output, present_key, present_value))
    }

    fn shape(&self, value: Value) -> &Shape {
        &self.info(value).shape
    }

    fn push(&mut self, info: ValueInfo) -> Value {
        self.values.push(info);
        Value(self.values.len() - 1)
    }

    fn result(&mut self, element: ElementType, shape: Shape) -> Value {
        let name = format!("value_{}", self.values.len());
        self.push(ValueInfo { name, element, shape, source: Source::Node })
    }

    fn node(&mut self, op: Op, inputs: &[Value], element: ElementType, shape: Shape) -> Value {
        let output = self.result(element, shape);
        self.nodes.push(Node {
            op,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        output
    }

    fn same_shape(&mut self, op: Op, inputs: &[Value]) -> Value {
        let ValueInfo { element, shape, .. } = self.info(inputs[0]).clone();
        self.node(op, inputs, element, shape)
    }

    fn rename(&mut self, value: Value, name: &str) -> Value {
        name.clone_into(&mut self.values[value.0].name);
        value
    }

    fn broadcast(&self, what: &str, x: Value, y: Value) -> Result<Shape, ModelError> {
        let (a, b) = (self.shape(x), self.shape(y));
        let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
        if long.ends_with(short) { Ok(long.clone()) } else { Err(self.mismatch(what, &[x, y])) }
    }

    fn mismatch(&self, what: &str, values: &[Value]) -> ModelError {
        let shapes: Vec<String> = values
            .iter()
            .map(|&value| format!("{} {:?}", self.info(value).name, self.shape(value)))
            .collect();
        ModelError::Invalid(format!("the shapes of {what} do not match: {}", shapes.join(", ")))
    }
}
