//! Matrix products.

use crate::error::ModelError;
use crate::onnx::op::Op;

use super::Graph;
use super::elementwise::joint;
use crate::onnx::value::{Dim, Value};

impl Graph {
    /// x · wᵀ, for x `[.., in]` and w `[out, in]`.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when shapes or element types do not match.
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
        let element = self.same_element("a linear layer", &[x, weight])?;
        Ok(self.node(Op::Linear, &[x, weight], element, shape))
    }

    /// a · b for a `[.., m, k]` and b `[.., k, n]`. The outer axes are broadcast as in [`Graph::add`].
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when shapes or element types do not match.
    pub fn matmul(&mut self, a: Value, b: Value) -> Result<Value, ModelError> {
        self.product((a, false), (b, false), 1.0)
    }

    /// a · bᵀ for a `[.., m, k]` and b `[.., n, k]`. The outer axes are broadcast as in [`Graph::add`].
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when shapes or element types do not match.
    pub fn matmul_transposed(&mut self, a: Value, b: Value) -> Result<Value, ModelError> {
        self.product((a, false), (b, true), 1.0)
    }

    /// alpha · a · b over the last two axes. The flag of each operand says whether it is transposed first.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when shapes or element types do not match.
    pub fn product(
        &mut self,
        (a, transpose_a): (Value, bool),
        (b, transpose_b): (Value, bool),
        alpha: f32,
    ) -> Result<Value, ModelError> {
        let matrix = |value: Value, transposed: bool| match self.shape(value)[..] {
            [ref outer @ .., rows, columns] if transposed => Some((outer, columns, rows)),
            [ref outer @ .., rows, columns] => Some((outer, rows, columns)),
            [] | [_] => None,
        };
        let shape = matrix(a, transpose_a).zip(matrix(b, transpose_b)).and_then(
            |((outer_a, rows, inner_a), (outer_b, inner_b, columns))| {
                let mut shape = joint(outer_a, outer_b).filter(|_| inner_a == inner_b)?;
                shape.extend::<[Dim; 2]>([rows, columns]);
                Some(shape)
            },
        );
        let shape = shape.ok_or_else(|| self.mismatch("a matrix product", &[a, b]))?;
        let element = self.same_element("a matrix product", &[a, b])?;
        Ok(self.node(Op::MatMul { transpose_a, transpose_b, alpha }, &[a, b], element, shape))
    }
}
