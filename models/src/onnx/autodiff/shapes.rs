//! Rules of operators that move elements: the gradient is moved back.

use crate::error::ModelError;
use crate::onnx::value::{Dim, Value};

use super::{Backward, Step, no_rule};

impl Backward<'_> {
    pub(super) fn reshape(&mut self, step: &Step) -> Result<(), ModelError> {
        let x = step.input(0)?;
        let shape = self.graph.shape(x).clone();
        let dx = self.graph.reshape(step.gradient()?, shape)?;
        self.give(x, dx)
    }

    pub(super) fn transpose(&mut self, step: &Step, perm: &[usize]) -> Result<(), ModelError> {
        let mut inverse = vec![0; perm.len()];
        for (to, &from) in perm.iter().enumerate() {
            inverse[from] = to;
        }
        let dx = self.graph.transpose(step.gradient()?, &inverse)?;
        self.give(step.input(0)?, dx)
    }

    pub(super) fn unsqueeze(&mut self, step: &Step, axis: usize) -> Result<(), ModelError> {
        let dx = self.graph.squeeze(step.gradient()?, counted(axis))?;
        self.give(step.input(0)?, dx)
    }

    pub(super) fn squeeze(&mut self, step: &Step, axis: usize) -> Result<(), ModelError> {
        let dx = self.graph.unsqueeze(step.gradient()?, counted(axis))?;
        self.give(step.input(0)?, dx)
    }

    /// ȳ between zeros. A Pad would say the same, but has no kernel of this operator set on CUDA.
    pub(super) fn slice(
        &mut self,
        step: &Step,
        axis: usize,
        start: usize,
        end: usize,
    ) -> Result<(), ModelError> {
        let x = step.input(0)?;
        let mut shape = self.graph.shape(x).clone();
        let Some(&Dim::Fixed(size)) = shape.get(axis) else { return Err(no_rule(step)) };
        let mut parts = Vec::with_capacity(3);
        for (count, gradient) in [(start, None), (end - start, Some(step.gradient()?)), (size - end, None)] {
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
        self.give(x, dx)
    }

    pub(super) fn concat(&mut self, step: &Step, axis: usize) -> Result<(), ModelError> {
        let dy = step.gradient()?;
        let inputs: Vec<Value> = step.node.inputs.iter().flatten().copied().collect();
        let mut start = 0;
        for input in inputs {
            let Some(&Dim::Fixed(size)) = self.graph.shape(input).get(axis) else {
                return Err(no_rule(step));
            };
            if self.wants(input) {
                let part = self.graph.slice(dy, axis, start, start + size);
                self.give(input, part)?;
            }
            start += size;
        }
        Ok(())
    }

    pub(super) fn split(&mut self, step: &Step, axis: usize) -> Result<(), ModelError> {
        let mut parts = Vec::with_capacity(step.gradients.len());
        for (output, gradient) in step.node.outputs.iter().zip(&step.gradients) {
            match (gradient, output) {
                (Some(gradient), _) => parts.push(*gradient),
                (None, Some(output)) => {
                    let shape = self.graph.shape(*output).clone();
                    parts.push(self.zeros(shape)?);
                }
                (None, None) => return Err(no_rule(step)),
            }
        }
        let dx = self.graph.concat(&parts, counted(axis))?;
        self.give(step.input(0)?, dx)
    }
}

fn counted(axis: usize) -> i64 {
    i64::try_from(axis).unwrap_or(i64::MAX)
}
