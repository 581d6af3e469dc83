//! Matrices in blocks of integers.

use super::tensor::Tensor;
use crate::onnx::op::Blocks;

/// Returns the matrix `[outputs, inputs]` of these integers and scales.
pub(super) fn matrix(integers: &Tensor, scales: &Tensor, blocks: Blocks) -> Tensor {
    let zero = if blocks.bits == 4 { 8 } else { 128 };
    let stored = integers.integers();
    let unpacked = stored.iter().flat_map(|&byte| match blocks.bits {
        4 => vec![byte & 15, byte >> 4],
        _ => vec![byte],
    });
    let numbers = unpacked.enumerate().map(|(index, q)| {
        #[expect(clippy::cast_precision_loss, reason = "integers of 8 bits")]
        let q = (q - zero) as f64;
        q * scales.data[index / blocks.elements]
    });
    let outputs = scales.shape[0];
    let data: Vec<f64> = numbers.collect();
    Tensor::new([outputs, data.len() / outputs], data)
}
