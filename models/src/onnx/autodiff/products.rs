//! Rules of matrix products. In the comments, y is the result and ȳ its gradient.

use crate::error::ModelError;
use crate::onnx::value::{Dim, Value};

use super::{Backward, BackwardNode};

/// The merged outer axes of a value.
const ROWS: Dim = Dim::Named("merged_rows");

impl Backward<'_> {
    /// x̄ = ȳ w, a plain product with the stored weight; w̄ = ȳᵀ x.
    pub(super) fn linear(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (x, weight, dy) = (node.input(0)?, node.input(1)?, node.gradient()?);
        if self.requires_gradient(x) {
            let weight = self.forward_value(weight);
            let dx = self.graph.matmul(dy, weight)?;
            self.accumulate(x, dx)?;
        }
        if self.requires_gradient(weight) {
            let x = self.forward_value(x);
            let (dy, x) = (self.as_matrix(dy)?, self.as_matrix(x)?);
            let dw = self.graph.product((dy, true), (x, false), 1.0)?;
            self.accumulate(weight, dw)?;
        }
        Ok(())
    }

    /// With y = α A B, Ā = α ȳ Bᵀ and B̄ = α Aᵀ ȳ, where A and B are the operands after their transpositions.
    /// The gradient of a transposed operand is the transposed gradient, which exchanges the factors.
    pub(super) fn matmul(
        &mut self,
        node: &BackwardNode,
        transpose_a: bool,
        transpose_b: bool,
        alpha: f32,
    ) -> Result<(), ModelError> {
        let (a, b, dy) = (node.input(0)?, node.input(1)?, node.gradient()?);
        if self.requires_gradient(a) {
            let b = self.forward_value(b);
            let da = if transpose_a {
                self.graph.product((b, transpose_b), (dy, true), alpha)?
            } else {
                self.graph.product((dy, false), (b, !transpose_b), alpha)?
            };
            self.accumulate_summed(a, da)?;
        }
        if self.requires_gradient(b) {
            let shared = self.graph.shape(b).len() == 2 && !transpose_a;
            let a = self.forward_value(a);
            // One matrix for all outer axes: their rows are the rows of one product.
            let (a, dy) = if shared { (self.as_matrix(a)?, self.as_matrix(dy)?) } else { (a, dy) };
            let db = if transpose_b {
                self.graph.product((dy, true), (a, transpose_a), alpha)?
            } else {
                self.graph.product((a, !transpose_a), (dy, false), alpha)?
            };
            self.accumulate_summed(b, db)?;
        }
        Ok(())
    }

    fn as_matrix(&mut self, x: Value) -> Result<Value, ModelError> {
        let shape = self.graph.shape(x).clone();
        let [ref outer @ .., last] = shape[..] else { return Ok(x) };
        if outer.len() == 1 {
            return Ok(x);
        }
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Named(_) => None,
        };
        let rows = outer.iter().map(size).product::<Option<usize>>().map_or(ROWS, Dim::Fixed);
        self.graph.reshape(x, vec![rows, last])
    }
}
