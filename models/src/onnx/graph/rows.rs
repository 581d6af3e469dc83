//! Choosing rows and elements by index.

use crate::error::ModelError;
use crate::onnx::op::Op;

use super::Graph;
use crate::onnx::value::{Dim, Value};

impl Graph {
    /// Rows of a table `[n, ..]` by their indices; −1 is the last row.
    pub fn gather(&mut self, table: Value, indices: Value) -> Value {
        self.gather_as(Op::Gather, table, indices)
    }

    /// Rows of x `[n, ..]` by `index [m]`, no row more than once, so that the gradient is again a choice of rows: by
    /// `inverse [n]`, which says for each row of x where it went, and **−1 for a row that went nowhere**: that row gets no
    /// gradient. This is how padded rows are packed: `index` says where each token stands in the padded layout, `inverse` which
    /// token each padded place holds, or −1.
    pub fn gather_paired(&mut self, x: Value, index: Value, inverse: Value) -> Value {
        self.gather_as(Op::GatherPaired { inverse, covers: false }, x, index)
    }

    /// The other direction of [`Graph::gather_paired`]: rows of x `[n, ..]` by `index [m]`, among them every row of x, at the
    /// places `inverse [n]`. The rows elsewhere (padding; an index of −1 fills it with the last row) must not reach the loss,
    /// since the gradient, the rows at `inverse`, leaves theirs out.
    pub fn gather_padded(&mut self, x: Value, index: Value, inverse: Value) -> Value {
        self.gather_as(Op::GatherPaired { inverse, covers: true }, x, index)
    }

    /// One element of each row: x `[rows, n]` at columns `ids [rows, 1]` is `[rows, 1]`.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn gather_elements(&mut self, x: Value, ids: Value) -> Result<Value, ModelError> {
        match (&self.shape(x)[..], &self.shape(ids)[..]) {
            ([rows, _], [ids_rows, Dim::Fixed(1)]) if rows == ids_rows => {}
            _ => return Err(self.mismatch("a choice of one element of each row", &[x, ids])),
        }
        let shape = self.shape(ids).clone();
        let element = self.info(x).element;
        Ok(self.node(Op::GatherElements, &[x, ids], element, shape))
    }

    /// x with `updates` added at the indices `ids` of an axis; an index may come more than once.
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
