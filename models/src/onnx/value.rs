//! The values of a graph: their element types, their shapes and their sources.

use crate::checkpoint::weights::BytesRef;
use crate::checkpoint::{Dtype, TensorRef};

/// A value of one graph: an input, a weight, or the result of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(usize);

impl Value {
    /// Returns the value with this index among [`Graph::values`](super::Graph::values).
    pub(super) const fn new(index: usize) -> Self {
        Self(index)
    }

    /// Its index among [`Graph::values`](super::Graph::values).
    pub(super) const fn index(self) -> usize {
        self.0
    }
}

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
    /// Byte.
    U8,
    /// True or false.
    Bool,
}

impl ElementType {
    /// Returns the code of the type in ONNX.
    #[must_use]
    pub const fn onnx_code(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::U8 => 2,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::Bool => 9,
            Self::F16 => 10,
            Self::BF16 => 16,
        }
    }

    /// Whether values of this type are floats, which can have a gradient.
    pub(super) const fn is_float(self) -> bool {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => true,
            Self::I32 | Self::I64 | Self::U8 | Self::Bool => false,
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
    /// Known when the graph runs; equal names mean equal sizes.
    Named(&'static str),
}

/// The dimensions of a value, outermost first.
pub type Shape = Vec<Dim>;

/// The source of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Passed to every run.
    Input,
    /// A constant, as little-endian bytes.
    Constant(Vec<u8>),
    /// A constant in a file.
    Weight(TensorRef),
    /// A constant of bytes in a file.
    Bytes(BytesRef),
    /// The result of a node.
    Node,
}

/// The name, element type, shape and source of a value.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueInfo {
    /// Its name, unique in the graph.
    pub name: String,
    /// Its element type.
    pub element: ElementType,
    /// Its shape.
    pub shape: Shape,
    /// The source of a value.
    pub source: Source,
}
