//! Rules of sums and means: every summed element gets the gradient.

use crate::error::ModelError;
use crate::onnx::value::{Dim, ElementType, Value};

use super::{Backward, BackwardNode};

impl Backward<'_> {
    pub(super) fn reduced(
        &mut self,
        node: &BackwardNode,
        axes: &[usize],
        keep: bool,
        mean: bool,
    ) -> Result<(), ModelError> {
        let (x, mut dx) = (node.input(0)?, node.gradient()?);
        let shape = self.graph.shape(x).clone();
        if mean {
            let dims: Vec<Dim> = axes.iter().map(|&axis| shape[axis]).collect();
            dx = self.divided(dx, &dims)?;
        }
        // A scalar is broadcast along any axes as it is.
        if !keep && axes.len() < shape.len() {
            for &axis in axes {
                dx = self.graph.unsqueeze(dx, i64::try_from(axis).unwrap_or(i64::MAX))?;
            }
        }
        let dx = self.graph.expand(dx, shape)?;
        self.accumulate(x, dx)
    }

    /// x divided by the product of some dimensions.
    fn divided(&mut self, mut x: Value, dims: &[Dim]) -> Result<Value, ModelError> {
        let mut fixed = 1.0_f64;
        for dim in dims {
            match *dim {
                #[expect(clippy::cast_precision_loss, reason = "sizes of tensors are far below 2⁵³")]
                Dim::Fixed(size) => fixed *= size as f64,
                Dim::Named(name) => {
                    let size = self.graph.size(name)?;
                    let size = self.graph.cast(size, ElementType::F32);
                    let size = self.graph.squeeze(size, 0)?;
                    x = self.graph.div(x, size)?;
                }
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "a factor is rounded to 32 bits")]
        let factor = fixed.recip() as f32;
        Ok(if fixed > 1.0 { self.graph.scale(x, factor) } else { x })
    }
}
