//! Memory that an operator takes while it runs, besides its results.

use crate::onnx::op::Op;

/// Bytes of one number.
const FLOAT: usize = 4;
/// Bytes of one index.
const INDEX: usize = 8;

/// Returns the sizes of the blocks, in bytes, in the order in which the operator takes them. `operand` has
/// the dimensions of an operand.
pub(super) fn of<'d>(op: &Op, operand: impl Fn(usize) -> &'d [usize]) -> Vec<usize> {
    let Op::GroupQueryAttention { heads, kv_heads, rotary, .. } = op else { return Vec::new() };
    let (&[batch, seq, width], &[_, _, capacity, head_dim]) = (operand(0), operand(3)) else {
        return Vec::new();
    };
    // See onnxruntime/contrib_ops/cpu/bert/group_query_attention.cc: queries, keys and values by head,
    // rotated queries and keys, and the probabilities over the whole capacity.
    let keys = batch * seq * kv_heads * head_dim;
    let mut blocks = vec![FLOAT * batch * seq * width, FLOAT * keys, FLOAT * keys];
    if *rotary {
        blocks.extend([INDEX * batch * seq, FLOAT * batch * seq * width, FLOAT * keys]);
    }
    blocks.push(FLOAT * batch * heads * seq * capacity);
    blocks
}
