//! Products and look-ups of matrices in blocks of integers.

use crate::checkpoint::weights::{BytesRef, PackedMatrix};
use crate::error::ModelError;
use crate::onnx::op::{Blocks, Op};

use super::Graph;
use crate::onnx::value::{Dim, ElementType, Shape, Source, Value, ValueInfo};

impl Graph {
    /// x · wᵀ for x `[.., inputs]` and a packed matrix w `[outputs, inputs]` of that name.
    ///
    /// A session with packed layouts rounds x to 8 bits in blocks; other sessions compute in 32-bit floats. A
    /// constant c of a block adds c · (sum of the inputs of the block). Products that read the same x share
    /// these sums.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn packed_linear(
        &mut self,
        x: Value,
        name: &str,
        matrix: &PackedMatrix,
    ) -> Result<Value, ModelError> {
        let &PackedMatrix { outputs, inputs, block, .. } = matrix;
        let rows = [outputs, inputs / block, block * matrix.bits / 8];
        let integers = self.integers(format!("{name}.integers"), &matrix.integers, &rows);
        let scales = self.weight(&format!("{name}.scales"), &matrix.scales);
        let mut shape = self.shape(x).clone();
        if shape.pop() != Some(Dim::Fixed(inputs)) {
            return Err(self.mismatch("a product with a packed matrix", &[x, integers]));
        }
        shape.push(Dim::Fixed(outputs));
        let op = Op::PackedLinear { outputs, inputs, blocks: Blocks { bits: matrix.bits, elements: block } };
        let y = self.node(op, &[x, integers, scales], ElementType::F32, shape);
        let Some(constants) = &matrix.constants else { return Ok(y) };
        let constants = self.weight(&format!("{name}.constants"), constants);
        let sums = self.block_sums(x, inputs, block)?;
        let change = self.linear(sums, constants)?;
        self.add(y, change)
    }

    /// Rows of a packed matrix of that name, by their indices.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the shapes do not match.
    pub fn packed_rows(
        &mut self,
        name: &str,
        matrix: &PackedMatrix,
        indices: Value,
    ) -> Result<Value, ModelError> {
        let &PackedMatrix { outputs, inputs, bits, block, .. } = matrix;
        // The same bytes as in a product, in the shape that this operator takes.
        let table = self.integers(format!("{name}.rows"), &matrix.integers, &[outputs, inputs * bits / 8]);
        let scales = self.weight(&format!("{name}.scales"), &matrix.scales);
        let outer = self.shape(indices).clone();
        let with = |dims: &[usize]| -> Shape {
            outer.iter().copied().chain(dims.iter().copied().map(Dim::Fixed)).collect()
        };
        let op = Op::PackedGather(Blocks { bits, elements: block });
        let rows = self.node(op, &[table, indices, scales], ElementType::F32, with(&[inputs]));
        let Some(constants) = &matrix.constants else { return Ok(rows) };
        let constants = self.weight(&format!("{name}.constants"), constants);
        let constants = self.gather(constants, indices);
        let constants = self.reshape(constants, with(&[inputs / block, 1]))?;
        let by_block = self.reshape(rows, with(&[inputs / block, block]))?;
        let sum = self.add(by_block, constants)?;
        self.reshape(sum, with(&[inputs]))
    }

    /// The sums of the blocks of x `[.., width]`: `[.., width / block]`.
    fn block_sums(&mut self, x: Value, width: usize, block: usize) -> Result<Value, ModelError> {
        if let Some(&known) = self.block_sums.get(&(x, block)) {
            return Ok(known);
        }
        let mut shape = self.shape(x).clone();
        shape.pop();
        shape.extend([Dim::Fixed(width / block), Dim::Fixed(block)]);
        let by_block = self.reshape(x, shape)?;
        let sums = self.sum(by_block, &[-1], false)?;
        self.block_sums.insert((x, block), sums);
        Ok(sums)
    }

    /// Adds bytes of a file in a shape.
    fn integers(&mut self, name: String, bytes: &BytesRef, shape: &[usize]) -> Value {
        if let Some(known) = self.named(&name) {
            return known;
        }
        let shape = shape.iter().copied().map(Dim::Fixed).collect();
        let source = Source::Bytes(bytes.clone());
        self.push(ValueInfo { name, element: ElementType::U8, shape, source })
    }
}
