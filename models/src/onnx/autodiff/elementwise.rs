//! Rules of element-wise operators. In the comments, y is the result and ȳ its gradient.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use crate::error::ModelError;
use crate::onnx::op::Op;
use crate::onnx::value::Value;

use super::{Backward, BackwardNode};

/// The coefficient of x³ in the tanh form of GELU: Φ(x) ≈ ½ (1 + tanh(√(2/π) (x + 0.044715 x³))).
const GELU_CUBIC: f32 = 0.044_715;

impl Backward<'_> {
    pub(super) fn add(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let dy = node.gradient()?;
        self.accumulate_summed(node.input(0)?, dy)?;
        self.accumulate_summed(node.input(1)?, dy)
    }

    pub(super) fn sub(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (b, dy) = (node.input(1)?, node.gradient()?);
        self.accumulate_summed(node.input(0)?, dy)?;
        if self.requires_gradient(b) {
            let summed = self.summed_to(dy, b)?;
            let negative = self.graph.neg(summed);
            self.accumulate(b, negative)?;
        }
        Ok(())
    }

    pub(super) fn mul(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (a, b, dy) = (node.input(0)?, node.input(1)?, node.gradient()?);
        if a == b {
            let x = self.forward_value(a);
            let scaled = self.graph.mul(dy, x)?;
            let doubled = self.graph.scale(scaled, 2.0);
            return self.accumulate(a, doubled);
        }
        for (value, other) in [(a, b), (b, a)] {
            if self.requires_gradient(value) {
                let other = self.forward_value(other);
                let scaled = self.graph.mul(dy, other)?;
                self.accumulate_summed(value, scaled)?;
            }
        }
        Ok(())
    }

    /// ā = ȳ / b, b̄ = −ȳ / b · y.
    pub(super) fn div(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (a, b, dy) = (node.input(0)?, node.input(1)?, node.gradient()?);
        let divisor = self.forward_value(b);
        let over = self.graph.div(dy, divisor)?;
        self.accumulate_summed(a, over)?;
        if self.requires_gradient(b) {
            let y = self.forward_value(node.output()?);
            let scaled = self.graph.mul(over, y)?;
            let summed = self.summed_to(scaled, b)?;
            let negative = self.graph.neg(summed);
            self.accumulate(b, negative)?;
        }
        Ok(())
    }

    /// ȳ goes to the greater operand, half to each where they are equal, as in PyTorch. The share of a is ½ +
    /// ½ sign(a − b).
    pub(super) fn max(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (a, b) = (self.forward_value(node.input(0)?), self.forward_value(node.input(1)?));
        let difference = self.graph.sub(a, b)?;
        self.shared(node, difference)
    }

    /// ȳ goes to the lesser operand, half to each where they are equal. The share of a is ½ + ½ sign(b − a).
    pub(super) fn min(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (a, b) = (self.forward_value(node.input(0)?), self.forward_value(node.input(1)?));
        let difference = self.graph.sub(b, a)?;
        self.shared(node, difference)
    }

    fn shared(&mut self, node: &BackwardNode, difference: Value) -> Result<(), ModelError> {
        let (a, b, dy) = (node.input(0)?, node.input(1)?, node.gradient()?);
        let sign = self.graph.sign(difference);
        let half = self.graph.scale(sign, 0.5);
        let share = self.graph.shift(half, 0.5);
        let given = self.graph.mul(dy, share)?;
        self.accumulate_summed(a, given)?;
        if self.requires_gradient(b) {
            let rest = self.graph.sub(dy, given)?;
            self.accumulate_summed(b, rest)?;
        }
        Ok(())
    }

    pub(super) fn select(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let dy = node.gradient()?;
        let condition = self.forward_value(node.input(0)?);
        let zero = self.graph.constant_scalar(0.0);
        for (slot, choice) in [(1, [condition, dy, zero]), (2, [condition, zero, dy])] {
            let value = node.input(slot)?;
            if self.requires_gradient(value) {
                let element = self.graph.info(dy).element;
                let shape = self.graph.shape(dy).clone();
                let given = self.graph.node(Op::Where, &choice, element, shape);
                self.accumulate_summed(value, given)?;
            }
        }
        Ok(())
    }

    pub(super) fn neg(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let dy = node.gradient()?;
        let dx = self.graph.neg(dy);
        self.accumulate(node.input(0)?, dx)
    }

    /// ȳ y
    pub(super) fn exp(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let y = self.forward_value(node.output()?);
        self.accumulate_scaled(node, y)
    }

    /// ȳ / x
    pub(super) fn log(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (x, dy) = (node.input(0)?, node.gradient()?);
        let divisor = self.forward_value(x);
        let dx = self.graph.div(dy, divisor)?;
        self.accumulate(x, dx)
    }

    /// ½ ȳ / y
    pub(super) fn sqrt(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let y = self.forward_value(node.output()?);
        let over = self.graph.div(node.gradient()?, y)?;
        let dx = self.graph.scale(over, 0.5);
        self.accumulate(node.input(0)?, dx)
    }

    /// −ȳ y²
    pub(super) fn reciprocal(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let y = self.forward_value(node.output()?);
        let square = self.graph.square(y);
        let slope = self.graph.neg(square);
        self.accumulate_scaled(node, slope)
    }

    /// ȳ y (1 − y)
    pub(super) fn sigmoid(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let y = self.forward_value(node.output()?);
        let rest = self.one_minus(y)?;
        let slope = self.graph.mul(y, rest)?;
        self.accumulate_scaled(node, slope)
    }

    /// ȳ σ(x)
    pub(super) fn softplus(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let x = self.forward_value(node.input(0)?);
        let slope = self.graph.sigmoid(x);
        self.accumulate_scaled(node, slope)
    }

    /// ȳ (1 − y²)
    pub(super) fn tanh(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let y = self.forward_value(node.output()?);
        let square = self.graph.square(y);
        let slope = self.one_minus(square)?;
        self.accumulate_scaled(node, slope)
    }

    /// ȳ sign(x)
    pub(super) fn abs(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let x = self.forward_value(node.input(0)?);
        let slope = self.graph.sign(x);
        self.accumulate_scaled(node, slope)
    }

    /// ȳ 2/√π e^(−x²)
    pub(super) fn erf(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let x = self.forward_value(node.input(0)?);
        let square = self.graph.square(x);
        let negative = self.graph.neg(square);
        let bell = self.graph.exp(negative);
        let slope = self.graph.scale(bell, FRAC_2_SQRT_PI);
        self.accumulate_scaled(node, slope)
    }

    pub(super) fn cast(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let x = node.input(0)?;
        let element = self.graph.info(x).element;
        let dx = self.graph.cast(node.gradient()?, element);
        self.accumulate(x, dx)
    }

    /// Adds ȳ times the slope at each element to the gradient of the only operand.
    fn accumulate_scaled(&mut self, node: &BackwardNode, slope: Value) -> Result<(), ModelError> {
        let dx = self.graph.mul(node.gradient()?, slope)?;
        self.accumulate(node.input(0)?, dx)
    }

    fn one_minus(&mut self, x: Value) -> Result<Value, ModelError> {
        let one = self.graph.constant_scalar(1.0);
        self.graph.sub(one, x)
    }

    /// With s = σ(x): ȳ (s + x s (1 − s)) = ȳ (y + s (1 − y)).
    pub(super) fn silu(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (x, y) = (self.forward_value(node.input(0)?), self.forward_value(node.output()?));
        let sigmoid = self.graph.sigmoid(x);
        let rest = self.one_minus(y)?;
        let product = self.graph.mul(sigmoid, rest)?;
        let slope = self.graph.add(product, y)?;
        self.accumulate_scaled(node, slope)
    }

    /// ȳ (Φ(x) + x φ(x)), with Φ(x) = ½ (1 + erf(x/√2)) and φ(x) = e^(−x²/2) / √(2π).
    pub(super) fn gelu(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let x = self.forward_value(node.input(0)?);
        let scaled = self.graph.scale(x, FRAC_1_SQRT_2);
        let erf = self.graph.erf(scaled);
        let doubled = self.graph.shift(erf, 1.0);
        let share = self.graph.scale(doubled, 0.5);
        let square = self.graph.square(scaled);
        let negative = self.graph.neg(square);
        let bell = self.graph.exp(negative);
        let weighted = self.graph.mul(bell, x)?;
        let density = self.graph.scale(weighted, 0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI);
        let slope = self.graph.add(share, density)?;
        self.accumulate_scaled(node, slope)
    }

    /// With t = tanh(√(2/π) (x + c x³)): ȳ (½ (1 + t) + ½ x (1 − t²) √(2/π) (1 + 3 c x²)).
    pub(super) fn gelu_tanh(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let root = FRAC_1_SQRT_2 * FRAC_2_SQRT_PI;
        let x = self.forward_value(node.input(0)?);
        let square = self.graph.square(x);
        let cubic = self.graph.scale(square, root * GELU_CUBIC);
        let factor = self.graph.shift(cubic, root);
        let inner = self.graph.mul(x, factor)?;
        let tanh = self.graph.tanh(inner);
        let tanh_square = self.graph.square(tanh);
        let rest = self.one_minus(tanh_square)?;
        let bend = self.graph.scale(square, 3.0 * root * GELU_CUBIC);
        let steepness = self.graph.shift(bend, root);
        let along = self.graph.mul(x, rest)?;
        let change = self.graph.mul(along, steepness)?;
        let share = self.graph.shift(tanh, 1.0);
        let sum = self.graph.add(share, change)?;
        let slope = self.graph.scale(sum, 0.5);
        self.accumulate_scaled(node, slope)
    }

    /// ȳ where low ≤ x ≤ high, as in PyTorch.
    pub(super) fn clip(&mut self, node: &BackwardNode, low: f32, high: f32) -> Result<(), ModelError> {
        let x = self.forward_value(node.input(0)?);
        let mut dx = node.gradient()?;
        if low > f32::NEG_INFINITY {
            let low = self.graph.constant_scalar(low);
            let mask = self.graph.less_or_equal(low, x)?;
            dx = self.graph.mul(dx, mask)?;
        }
        if high < f32::INFINITY {
            let high = self.graph.constant_scalar(high);
            let mask = self.graph.less_or_equal(x, high)?;
            dx = self.graph.mul(dx, mask)?;
        }
        self.accumulate(node.input(0)?, dx)
    }
}
