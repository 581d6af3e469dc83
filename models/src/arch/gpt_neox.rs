//! GPT-NeoX (Black et al. 2022, arXiv 2204.06745; Pythia: arXiv 2304.01373), as `GPTNeoXModel` of Hugging
//! Face transformers.
//!
//! Layer norms with bias, a fused projection for query, key and value, and partial rotary positions.
//! Attention and MLP read the same residual; in sequential models the MLP reads the sum after attention.

use crate::checkpoint::ModelConfig;
use crate::error::ModelError;
use crate::onnx::{Dim, Value};

use super::forward::Forward;

/// Returns the final norm's output at the selected positions, `[selected, hidden]`.
pub(super) fn hidden_states(forward: &mut impl Forward) -> Result<Value, ModelError> {
    let layers = forward.config().layers;
    let mut residual = forward.embedding("gpt_neox.embed_in.weight")?;
    for layer in 0..layers {
        forward.begin_layer(layer);
        let block = format!("gpt_neox.layers.{layer}");
        let normed = layer_norm(forward, &format!("{block}.input_layernorm"), residual)?;
        let mut mixed = causal_self_attention(forward, layer, &block, normed)?;
        if layer + 1 == layers {
            // The other positions are not read from here on.
            (mixed, residual) = (forward.select_positions(mixed)?, forward.select_positions(residual)?);
        }
        let bias = forward.config().attention_bias;
        let attended = forward.linear(layer, &block, "attention.dense", mixed, bias)?;
        let summed = forward.graph().add(attended, residual)?;
        let source = if forward.config().parallel_residual { residual } else { summed };
        let normed = layer_norm(forward, &format!("{block}.post_attention_layernorm"), source)?;
        let output = mlp(forward, layer, &block, normed)?;
        residual = forward.graph().add(output, summed)?;
    }
    layer_norm(forward, "gpt_neox.final_layer_norm", residual)
}

fn layer_norm(forward: &mut impl Forward, name: &str, x: Value) -> Result<Value, ModelError> {
    let weight = forward.weight(&format!("{name}.weight"))?;
    let bias = forward.weight(&format!("{name}.bias"))?;
    let epsilon = forward.config().norm_eps;
    Ok(forward.graph().layer_norm(x, weight, bias, epsilon))
}

/// Returns the output of causal self-attention, before its output projection.
fn causal_self_attention(
    forward: &mut impl Forward,
    layer: usize,
    block: &str,
    x: Value,
) -> Result<Value, ModelError> {
    let ModelConfig { heads, head_dim, attention_bias, .. } = *forward.config();
    let fused = forward.linear(layer, block, "attention.query_key_value", x, attention_bias)?;
    // Query, key and value alternate per head: [heads, 3, head_dim].
    let tokens = forward.token_shape();
    let shape = |dims: &[usize]| tokens.iter().copied().chain(dims.iter().copied().map(Dim::Fixed)).collect();
    let by_head = forward.graph().reshape(fused, shape(&[heads, 3 * head_dim]))?;
    let mut parts = Vec::with_capacity(3);
    for part in forward.graph().split_last(by_head, 3)? {
        parts.push(forward.graph().reshape(part, shape(&[heads * head_dim]))?);
    }
    forward.attention(layer, parts[0], parts[1], parts[2])
}

fn mlp(forward: &mut impl Forward, layer: usize, block: &str, x: Value) -> Result<Value, ModelError> {
    let wide = forward.linear(layer, block, "mlp.dense_h_to_4h", x, true)?;
    let active = forward.activation(wide);
    forward.linear(layer, block, "mlp.dense_4h_to_h", active, true)
}
