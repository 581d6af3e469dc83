//! Position embedding, and attention over a cache.

use crate::error::ModelError;
use crate::onnx::op::{AttentionRule, Op, RotaryHeads};

use super::{Graph, Node};
use crate::onnx::value::{Dim, Value};

/// The operands of [`Graph::group_query_attention`], except query, key and value.
#[derive(Debug, Clone, Copy)]
pub struct AttentionCache {
    /// `[batch, kv_heads, capacity, head_dim]`.
    pub past_key: Value,
    /// `[batch, kv_heads, capacity, head_dim]`.
    pub past_value: Value,
    /// `[batch]`, each row's total length − 1, 32-bit integers.
    pub seqlens_k: Value,
    /// `[1]`, the longest total length, a 32-bit integer.
    pub total_sequence_length: Value,
    /// `cos` and `sin`, `[positions, rotary_dims / 2]`, to rotate inside the operator.
    pub rotary: Option<(Value, Value)>,
}

impl Graph {
    /// Applies the rotary position embedding to `[batch, seq, heads · head_dim]` at positions `[batch, seq]`.
    /// ONNX Runtime needs tables of at least `seq` rows for any positions, so packed tokens have the shape
    /// `[tokens, 1, ..]`.
    pub fn rotary(
        &mut self,
        x: Value,
        positions: Value,
        (cos, sin): (Value, Value),
        heads: RotaryHeads,
    ) -> Value {
        self.same_shape(Op::Rotary(heads), &[x, positions, cos, sin])
    }

    /// Adds causal attention over a cache, and returns `(output, present_key, present_value)`. The head
    /// counts follow from the shapes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when shapes or element types do not match.
    pub fn group_query_attention(
        &mut self,
        query: Value,
        key: Value,
        value: Value,
        cache: &AttentionCache,
        rule: AttentionRule,
    ) -> Result<(Value, Value, Value), ModelError> {
        let cache_shape = self.shape(cache.past_key).clone();
        let (&[_, Dim::Fixed(kv_heads), _, Dim::Fixed(head_dim)], Some(&Dim::Fixed(width))) =
            (&cache_shape[..], self.shape(query).last())
        else {
            return Err(self.mismatch("attention", &[query, cache.past_key]));
        };
        if head_dim == 0
            || width % head_dim != 0
            || self.shape(key).last() != Some(&Dim::Fixed(kv_heads * head_dim))
        {
            return Err(self.mismatch("attention", &[query, key, cache.past_key]));
        }
        let rotary = cache.rotary.is_some();
        let op = Op::GroupQueryAttention { heads: width / head_dim, kv_heads, rotary, rule };
        let element =
            self.same_element("attention", &[query, key, value, cache.past_key, cache.past_value])?;
        let output = self.result(element, self.shape(query).clone());
        let present_key = self.result(element, cache_shape.clone());
        let present_value = self.result(element, cache_shape);
        let operands = [query, key, value, cache.past_key, cache.past_value, cache.seqlens_k];
        let mut inputs: Vec<_> =
            operands.into_iter().chain([cache.total_sequence_length]).map(Some).collect();
        inputs.extend(cache.rotary.iter().flat_map(|&(cos, sin)| [Some(cos), Some(sin)]));
        let outputs = vec![Some(output), Some(present_key), Some(present_value)];
        self.nodes.push(Node { op, inputs, outputs });
        Ok((output, present_key, present_value))
    }
}
