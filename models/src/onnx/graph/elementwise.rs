//! Element-wise operators.

use crate::error::ModelError;
use crate::onnx::op::Op;

use super::Graph;
use crate::onnx::value::{Dim, ElementType, Shape, Value};

impl Graph {
    /// Returns x + y with broadcasting: aligned at the last axis, the sizes are equal, or one of them is 1 or
    /// missing.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn add(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        self.binary("an addition", Op::Add, x, y)
    }

    /// Returns x − y, broadcast as in [`Graph::add`].
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn sub(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        self.binary("a subtraction", Op::Sub, x, y)
    }

    /// Returns x · y element by element, broadcast as in [`Graph::add`].
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn mul(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        self.binary("a product", Op::Mul, x, y)
    }

    /// Returns x / y, broadcast as in [`Graph::add`].
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn div(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        self.binary("a division", Op::Div, x, y)
    }

    /// Returns the lesser of x and y, broadcast as in [`Graph::add`]; where they are equal, the gradient is
    /// shared.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn min(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        self.binary("a minimum", Op::Min, x, y)
    }

    /// Returns the greater of x and y, broadcast as in [`Graph::add`]; where they are equal, the gradient is
    /// shared.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn max(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        self.binary("a maximum", Op::Max, x, y)
    }

    /// Returns 1 where x > y and 0 elsewhere, 32-bit floats, broadcast as in [`Graph::add`].
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn greater(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        self.comparison("a comparison", Op::Greater, x, y)
    }

    /// Returns 1 where x ≤ y and 0 elsewhere, 32-bit floats, broadcast as in [`Graph::add`].
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn less_or_equal(&mut self, x: Value, y: Value) -> Result<Value, ModelError> {
        self.comparison("a comparison", Op::LessOrEqual, x, y)
    }

    /// Returns x where the mask is not 0 and y elsewhere, broadcast as in [`Graph::add`]. Elements that are
    /// not selected may be infinite or NaN.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn select(&mut self, mask: Value, x: Value, y: Value) -> Result<Value, ModelError> {
        let values = self.broadcast("a select", x, y)?;
        let shape =
            joint(self.shape(mask), &values).ok_or_else(|| self.mismatch("a select", &[mask, x, y]))?;
        let condition = self.cast(mask, ElementType::Bool);
        let element = self.info(x).element;
        Ok(self.node(Op::Where, &[condition, x, y], element, shape))
    }

    /// Returns x in another element type.
    pub fn cast(&mut self, x: Value, to: ElementType) -> Value {
        if self.info(x).element == to {
            return x;
        }
        let shape = self.shape(x).clone();
        self.node(Op::Cast { to }, &[x], to, shape)
    }

    /// Returns x, treated as a constant by the gradient.
    pub fn stop_gradient(&mut self, x: Value) -> Value {
        let element = self.info(x).element;
        self.same_shape(Op::StopGradient { element }, &[x])
    }

    /// Returns −x.
    pub fn neg(&mut self, x: Value) -> Value {
        self.same_shape(Op::Neg, &[x])
    }

    /// Returns eˣ.
    pub fn exp(&mut self, x: Value) -> Value {
        self.same_shape(Op::Exp, &[x])
    }

    /// Returns the natural logarithm of x.
    pub fn log(&mut self, x: Value) -> Value {
        self.same_shape(Op::Log, &[x])
    }

    /// Returns √x.
    pub fn sqrt(&mut self, x: Value) -> Value {
        self.same_shape(Op::Sqrt, &[x])
    }

    /// Returns 1 / x.
    pub fn reciprocal(&mut self, x: Value) -> Value {
        self.same_shape(Op::Reciprocal, &[x])
    }

    /// Returns σ(x) = 1 / (1 + e⁻ˣ).
    pub fn sigmoid(&mut self, x: Value) -> Value {
        self.same_shape(Op::Sigmoid, &[x])
    }

    /// Returns ln(1 + eˣ), which is −ln σ(−x).
    pub fn softplus(&mut self, x: Value) -> Value {
        self.same_shape(Op::Softplus, &[x])
    }

    /// Returns tanh x.
    pub fn tanh(&mut self, x: Value) -> Value {
        self.same_shape(Op::Tanh, &[x])
    }

    /// Returns |x|, with gradient 0 at 0.
    pub fn abs(&mut self, x: Value) -> Value {
        self.same_shape(Op::Abs, &[x])
    }

    /// Returns −1, 0 or 1.
    pub fn sign(&mut self, x: Value) -> Value {
        self.same_shape(Op::Sign, &[x])
    }

    /// Returns the error function, 2/√π ∫₀ˣ e^(−t²) dt.
    pub fn erf(&mut self, x: Value) -> Value {
        self.same_shape(Op::Erf, &[x])
    }

    /// Returns x².
    pub fn square(&mut self, x: Value) -> Value {
        self.same_shape(Op::Mul, &[x, x])
    }

    /// Returns x · σ(x).
    pub fn silu(&mut self, x: Value) -> Value {
        self.same_shape(Op::Silu, &[x])
    }

    /// Returns x · Φ(x), or its tanh approximation.
    pub fn gelu(&mut self, x: Value, tanh: bool) -> Value {
        self.same_shape(Op::Gelu { tanh }, &[x])
    }

    /// Returns factor · x.
    pub fn scale(&mut self, x: Value, factor: f32) -> Value {
        let factor = self.scalar_for(x, factor);
        self.same_shape(Op::Mul, &[x, factor])
    }

    /// Returns c · tanh(x / c), which bounds x by c.
    pub fn soft_cap(&mut self, x: Value, c: f32) -> Value {
        let x = self.scale(x, c.recip());
        let x = self.tanh(x);
        self.scale(x, c)
    }

    /// Returns x + term.
    pub fn shift(&mut self, x: Value, term: f32) -> Value {
        let term = self.scalar_for(x, term);
        self.same_shape(Op::Add, &[x, term])
    }

    /// Returns x clamped to `low..=high`. The gradient is 1 from `low` to `high`, both included, and 0
    /// outside.
    pub fn clip(&mut self, x: Value, low: f32, high: f32) -> Value {
        self.same_shape(Op::Clip { low, high }, &[x])
    }

    fn binary(&mut self, what: &str, op: Op, x: Value, y: Value) -> Result<Value, ModelError> {
        let shape = self.broadcast(what, x, y)?;
        let element = self.same_element(what, &[x, y])?;
        Ok(self.node(op, &[x, y], element, shape))
    }

    fn comparison(&mut self, what: &str, op: Op, x: Value, y: Value) -> Result<Value, ModelError> {
        let shape = self.broadcast(what, x, y)?;
        let holds = self.node(op, &[x, y], ElementType::Bool, shape);
        Ok(self.cast(holds, ElementType::F32))
    }

    fn broadcast(&self, what: &str, x: Value, y: Value) -> Result<Shape, ModelError> {
        joint(self.shape(x), self.shape(y)).ok_or_else(|| self.mismatch(what, &[x, y]))
    }
}

/// Returns the broadcast shape of two operands, aligned at their last axes; `None` if they do not match.
pub(in crate::onnx) fn joint(a: &[Dim], b: &[Dim]) -> Option<Shape> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let outer = long.len() - short.len();
    let inner = long[outer..].iter().zip(short).map(|(&x, &y)| match (x, y) {
        (Dim::Fixed(1), other) | (other, Dim::Fixed(1)) => Some(other),
        (x, y) => (x == y).then_some(x),
    });
    long[..outer].iter().map(|&dim| Some(dim)).chain(inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_broadcast_from_the_last_axis() {
        let [rows, other] = ["rows", "other"].map(Dim::Named);
        let [one, four] = [1, 4].map(Dim::Fixed);
        assert_eq!(joint(&[rows, four], &[four]), Some(vec![rows, four]));
        assert_eq!(joint(&[one, four], &[rows, one]), Some(vec![rows, four]));
        assert_eq!(joint(&[], &[rows]), Some(vec![rows]));
        assert_eq!(joint(&[rows, four], &[rows]), None);
        assert_eq!(joint(&[rows], &[other]), None, "two names may be two sizes");
    }
}
