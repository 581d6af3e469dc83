//! Selecting rows and elements by index.

use crate::error::ModelError;
use crate::onnx::op::Op;

use super::Graph;
use crate::onnx::value::{Dim, Value};

impl Graph {
    /// Rows of a table `[n, ..]` by their indices; −1 is the last row.
    pub fn gather(&mut self, table: Value, indices: Value) -> Value {
        self.gather_as(Op::Gather, table, indices)
    }

    /// Gathers rows of x `[n, ..]` by `index [m]`, no row more than once. The gradient is therefore also a
    /// gather, by `inverse [n]`.
    ///
    /// `inverse` holds the new index of each row of x, and **−1 for a row that is not gathered**: that row
    /// gets no gradient. This packs padded rows: `index` holds the place of each token in the padded layout,
    /// `inverse` the token at each place, or −1.
    pub fn gather_paired(&mut self, x: Value, index: Value, inverse: Value) -> Value {
        self.gather_as(Op::GatherPaired { inverse, covers: false }, x, index)
    }

    /// Returns the opposite of [`Graph::gather_paired`]: gathers rows of x `[n, ..]` by `index [m]`. Every
    /// row of x must be among them, at the places `inverse [n]`.
    ///
    /// The other rows are padding; an index of −1 fills them with the last row. They must not reach the loss,
    /// since the gradient ignores them.
    pub fn gather_padded(&mut self, x: Value, index: Value, inverse: Value) -> Value {
        self.gather_as(Op::GatherPaired { inverse, covers: true }, x, index)
    }

    /// One element per row: x `[rows, n]` at columns `ids [rows, 1]` is `[rows, 1]`.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn gather_elements(&mut self, x: Value, ids: Value) -> Result<Value, ModelError> {
        match (&self.shape(x)[..], &self.shape(ids)[..]) {
            ([rows, _], [ids_rows, Dim::Fixed(1)]) if rows == ids_rows => {}
            _ => return Err(self.mismatch("a gather of one element per row", &[x, ids])),
        }
        let shape = self.shape(ids).clone();
        let element = self.info(x).element;
        Ok(self.node(Op::GatherElements, &[x, ids], element, shape))
    }

    /// Returns x `[n, ..]` with `rows [m, ..]` in the places `ids [m, 1]`. It has no gradient.
    pub fn replace_rows(&mut self, x: Value, ids: Value, rows: Value) -> Value {
        self.same_shape(Op::ReplaceRows, &[x, ids, rows])
    }

    /// x with `updates` added at the indices `ids` of an axis. An index may occur more than once.
    pub(in crate::onnx) fn scatter_add(
        &mut self,
        x: Value,
        ids: Value,
        updates: Value,
        axis: usize,
    ) -> Value {
        self.same_shape(Op::ScatterAdd { axis }, &[x, ids, updates])
    }

    fn gather_as(&mut self, op: Op, table: Value, indices: Value) -> Value {
        let mut shape = self.shape(indices).clone();
        shape.extend(self.shape(table).iter().skip(1));
        let element = self.info(table).element;
        self.node(op, &[table, indices], element, shape)
    }
}
