//! Rules of operators that move elements: the gradient is moved back.

use crate::error::ModelError;
use crate::onnx::value::{Dim, Value};

use super::{Backward, BackwardNode, no_rule};

impl Backward<'_> {
    pub(super) fn reshape(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let x = node.input(0)?;
        let shape = self.graph.shape(x).clone();
        let dx = self.graph.reshape(node.gradient()?, shape)?;
        self.accumulate(x, dx)
    }

    pub(super) fn transpose(&mut self, node: &BackwardNode, perm: &[usize]) -> Result<(), ModelError> {
        let mut inverse = vec![0; perm.len()];
        for (to, &from) in perm.iter().enumerate() {
            inverse[from] = to;
        }
        let dx = self.graph.transpose(node.gradient()?, &inverse)?;
        self.accumulate(node.input(0)?, dx)
    }

    pub(super) fn unsqueeze(&mut self, node: &BackwardNode, axis: usize) -> Result<(), ModelError> {
        let dx = self.graph.squeeze(node.gradient()?, counted(axis))?;
        self.accumulate(node.input(0)?, dx)
    }

    pub(super) fn squeeze(&mut self, node: &BackwardNode, axis: usize) -> Result<(), ModelError> {
        let dx = self.graph.unsqueeze(node.gradient()?, counted(axis))?;
        self.accumulate(node.input(0)?, dx)
    }

    /// ȳ between zeros. A Pad would do the same, but has no kernel of this operator set on CUDA.
    pub(super) fn slice(
        &mut self,
        node: &BackwardNode,
        axis: usize,
        start: usize,
        end: usize,
    ) -> Result<(), ModelError> {
        let x = node.input(0)?;
        let mut shape = self.graph.shape(x).clone();
        let Some(&Dim::Fixed(size)) = shape.get(axis) else { return Err(no_rule(node)) };
        let mut parts = Vec::with_capacity(3);
        for (count, gradient) in [(start, None), (end - start, Some(node.gradient()?)), (size - end, None)] {
            match gradient {
                Some(gradient) => parts.push(gradient),
                None if count == 0 => {}
                None => {
                    shape[axis] = Dim::Fixed(count);
                    parts.push(self.zeros(shape.clone())?);
                }
            }
        }
        let dx = self.graph.concat(&parts, counted(axis))?;
        self.accumulate(x, dx)
    }

    pub(super) fn concat(&mut self, node: &BackwardNode, axis: usize) -> Result<(), ModelError> {
        let dy = node.gradient()?;
        let inputs: Vec<Value> = node.node.inputs.iter().flatten().copied().collect();
        let mut start = 0;
        for input in inputs {
            let Some(&Dim::Fixed(size)) = self.graph.shape(input).get(axis) else {
                return Err(no_rule(node));
            };
            if self.requires_gradient(input) {
                let part = self.graph.slice(dy, axis, start, start + size);
                self.accumulate(input, part)?;
            }
            start += size;
        }
        Ok(())
    }

    pub(super) fn split(&mut self, node: &BackwardNode, axis: usize) -> Result<(), ModelError> {
        let mut parts = Vec::with_capacity(node.gradients.len());
        for (output, gradient) in node.node.outputs.iter().zip(&node.gradients) {
            match (gradient, output) {
                (Some(gradient), _) => parts.push(*gradient),
                (None, Some(output)) => {
                    let shape = self.graph.shape(*output).clone();
                    parts.push(self.zeros(shape)?);
                }
                (None, None) => return Err(no_rule(node)),
            }
        }
        let dx = self.graph.concat(&parts, counted(axis))?;
        self.accumulate(node.input(0)?, dx)
    }
}

fn counted(axis: usize) -> i64 {
    i64::try_from(axis).unwrap_or(i64::MAX)
}
