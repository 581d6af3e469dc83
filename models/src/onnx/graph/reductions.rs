//! Sums, means and maxima over axes.

use crate::error::ModelError;
use crate::onnx::op::Op;

use super::Graph;
use crate::onnx::value::{Dim, Shape, Value};

impl Graph {
    /// Returns the sum over some axes. They stay with size 1 if `keep`; −1 is the last axis.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when x has no such axis.
    pub fn sum(&mut self, x: Value, axes: &[i64], keep: bool) -> Result<Value, ModelError> {
        let axes = self.axes("a sum", x, axes)?;
        Ok(self.reduced_sum(x, axes, keep))
    }

    /// Returns the mean over some axes. They stay with size 1 if `keep`; −1 is the last axis.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when x has no such axis.
    pub fn mean(&mut self, x: Value, axes: &[i64], keep: bool) -> Result<Value, ModelError> {
        let axes = self.axes("a mean", x, axes)?;
        if axes.is_empty() {
            return Ok(x);
        }
        let shape = reduced(self.shape(x), &axes, keep);
        Ok(self.node(Op::ReduceMean { axes, keep }, &[x], self.info(x).element, shape))
    }

    /// Returns the maximum over the last axis, which stays with size 1. No gradient passes through it.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when x is a scalar.
    pub fn greatest(&mut self, x: Value) -> Result<Value, ModelError> {
        let axis = self.axis("a maximum", x, -1)?;
        let shape = reduced(self.shape(x), &[axis], true);
        Ok(self.node(Op::ReduceMax { axis }, &[x], self.info(x).element, shape))
    }

    /// Returns the sum of all elements, `[]`.
    pub fn sum_all(&mut self, x: Value) -> Value {
        let axes = (0..self.shape(x).len()).collect();
        self.reduced_sum(x, axes, false)
    }

    /// Returns the mean of all elements, `[]`.
    pub fn mean_all(&mut self, x: Value) -> Value {
        let axes: Vec<usize> = (0..self.shape(x).len()).collect();
        if axes.is_empty() {
            return x;
        }
        self.node(Op::ReduceMean { axes, keep: false }, &[x], self.info(x).element, Shape::new())
    }

    /// Returns the sum over existing axes, in ascending order.
    pub(in crate::onnx) fn reduced_sum(&mut self, x: Value, axes: Vec<usize>, keep: bool) -> Value {
        if axes.is_empty() {
            return x;
        }
        let shape = reduced(self.shape(x), &axes, keep);
        self.node(Op::ReduceSum { axes, keep }, &[x], self.info(x).element, shape)
    }

    fn axes(&self, what: &str, x: Value, axes: &[i64]) -> Result<Vec<usize>, ModelError> {
        let mut axes = axes.iter().map(|&axis| self.axis(what, x, axis)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        Ok(axes)
    }
}

fn reduced(shape: &[Dim], axes: &[usize], keep: bool) -> Shape {
    let dims = shape.iter().enumerate().filter_map(|(axis, &dim)| match axes.contains(&axis) {
        true if keep => Some(Dim::Fixed(1)),
        true => None,
        false => Some(dim),
    });
    dims.collect()
}
