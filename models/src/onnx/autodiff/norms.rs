//! Rules of norms and softmax over the last axis. In the comments, y is the result and ȳ its gradient.

use crate::error::ModelError;
use crate::onnx::value::{Dim, Shape, Value};

use super::{Backward, BackwardNode};

impl Backward<'_> {
    /// x̄ = p − y Σ p with p = ȳ y.
    pub(super) fn softmax(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let dy = node.gradient()?;
        let y = self.forward_value(node.output()?);
        let pulled = self.graph.mul(dy, y)?;
        let sum = self.graph.sum(pulled, &[-1], true)?;
        let shared = self.graph.mul(y, sum)?;
        let dx = self.graph.sub(pulled, shared)?;
        self.accumulate(node.input(0)?, dx)
    }

    /// x̄ = ȳ − eʸ Σ ȳ.
    pub(super) fn log_softmax(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let dy = node.gradient()?;
        let y = self.forward_value(node.output()?);
        let sum = self.graph.sum(dy, &[-1], true)?;
        let probabilities = self.graph.exp(y);
        let shared = self.graph.mul(probabilities, sum)?;
        let dx = self.graph.sub(dy, shared)?;
        self.accumulate(node.input(0)?, dx)
    }

    /// With r = 1/√(mean x² + ε) and g = ȳ w: y = x r w, w̄ = Σ ȳ x r over the rows, and x̄ = g r − x r³
    /// mean(g x).
    pub(super) fn rms_norm(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (input, weight, dy) = (node.input(0)?, node.input(1)?, node.gradient()?);
        let r = self.saved(node, 1, self.per_row(input));
        let x = self.forward_value(input);
        if self.requires_gradient(weight) {
            let normed = self.graph.mul(x, r)?;
            let scaled = self.graph.mul(dy, normed)?;
            self.accumulate_summed(weight, scaled)?;
        }
        if !self.requires_gradient(input) {
            return Ok(());
        }
        let weight = self.forward_value(weight);
        let g = self.graph.mul(dy, weight)?;
        let along = self.graph.mul(g, x)?;
        let mean = self.graph.mean(along, &[-1], true)?;
        let square = self.graph.square(r);
        let cube = self.graph.mul(square, r)?;
        let factor = self.graph.mul(mean, cube)?;
        let straight = self.graph.mul(g, r)?;
        let shared = self.graph.mul(x, factor)?;
        let dx = self.graph.sub(straight, shared)?;
        self.accumulate(input, dx)
    }

    /// With n = (x − mean) r, r = 1/√(var + ε) and g = ȳ w: y = n w + b.
    ///
    /// Over the rows, w̄ = Σ ȳ n and b̄ = Σ ȳ. x̄ = r (g − mean(g) − n mean(g n)).
    pub(super) fn layer_norm(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (input, weight, bias) = (node.input(0)?, node.input(1)?, node.input(2)?);
        let dy = node.gradient()?;
        self.accumulate_summed(bias, dy)?;
        if !self.requires_gradient(input) && !self.requires_gradient(weight) {
            return Ok(());
        }
        let mean = self.saved(node, 1, self.per_row(input));
        let r = self.saved(node, 2, self.per_row(input));
        let x = self.forward_value(input);
        let centred = self.graph.sub(x, mean)?;
        let normed = self.graph.mul(centred, r)?;
        if self.requires_gradient(weight) {
            let scaled = self.graph.mul(dy, normed)?;
            self.accumulate_summed(weight, scaled)?;
        }
        if !self.requires_gradient(input) {
            return Ok(());
        }
        let weight = self.forward_value(weight);
        let g = self.graph.mul(dy, weight)?;
        let along = self.graph.mul(g, normed)?;
        let along = self.graph.mean(along, &[-1], true)?;
        let level = self.graph.mean(g, &[-1], true)?;
        let bent = self.graph.mul(normed, along)?;
        let levelled = self.graph.sub(g, level)?;
        let difference = self.graph.sub(levelled, bent)?;
        let dx = self.graph.mul(difference, r)?;
        self.accumulate(input, dx)
    }

    /// Returns the shape with one number per row of a value.
    fn per_row(&self, value: Value) -> Shape {
        let mut shape = self.graph.shape(value).clone();
        if let Some(last) = shape.last_mut() {
            *last = Dim::Fixed(1);
        }
        shape
    }
}
