//! Llama (Touvron et al. 2023, arXiv 2302.13971; Llama 2: arXiv 2307.09288), as `LlamaModel` of Hugging Face
//! transformers.
//!
//! A root-mean-square norm before each block (arXiv 1910.07467), a gated SiLU MLP (SwiGLU, arXiv 2002.05202),
//! grouped-query attention (arXiv 2305.13245) and rotary positions (arXiv 2104.09864).

use crate::error::{InvalidKind, ModelError};
use crate::onnx::Value;

use super::forward::Forward;

/// Returns the final norm's output at the selected positions, `[selected, hidden]`.
pub(super) fn hidden_states(forward: &mut impl Forward) -> Result<Value, ModelError> {
    let epsilon = forward.config().norm_eps;
    let layers = forward.config().layers;
    let mut residual = forward.embedding("model.embed_tokens.weight")?;
    let mut block_output = None;
    for layer in 0..layers {
        forward.begin_layer(layer);
        let block = format!("model.layers.{layer}");
        let weight = forward.weight(&format!("{block}.input_layernorm.weight"))?;
        let normed = match block_output {
            None => forward.graph().rms_norm(residual, weight, epsilon),
            Some(output) => {
                let (normed, sum) = forward.add_rms_norm(residual, output, weight)?;
                residual = sum;
                normed
            }
        };
        let mut mixed = causal_self_attention(forward, layer, &block, normed)?;
        if layer + 1 == layers {
            // The other positions are not read from here on.
            (mixed, residual) = (forward.select_positions(mixed)?, forward.select_positions(residual)?);
        }
        let bias = forward.config().attention_bias;
        let attended = forward.linear(layer, &block, "self_attn.o_proj", mixed, bias)?;
        let weight = forward.weight(&format!("{block}.post_attention_layernorm.weight"))?;
        let (normed, sum) = forward.add_rms_norm(residual, attended, weight)?;
        residual = sum;
        block_output = Some(mlp(forward, layer, &block, normed)?);
    }
    let output = block_output
        .ok_or_else(|| ModelError::invalid(InvalidKind::Unsupported, "a model needs at least one layer"))?;
    let weight = forward.weight("model.norm.weight")?;
    let (normed, _) = forward.add_rms_norm(residual, output, weight)?;
    Ok(normed)
}

/// Returns the output of causal self-attention, before its output projection.
fn causal_self_attention(
    forward: &mut impl Forward,
    layer: usize,
    block: &str,
    x: Value,
) -> Result<Value, ModelError> {
    let bias = forward.config().attention_bias;
    let query = forward.linear(layer, block, "self_attn.q_proj", x, bias)?;
    let key = forward.linear(layer, block, "self_attn.k_proj", x, bias)?;
    let value = forward.linear(layer, block, "self_attn.v_proj", x, bias)?;
    forward.attention(layer, query, key, value)
}

fn mlp(forward: &mut impl Forward, layer: usize, block: &str, x: Value) -> Result<Value, ModelError> {
    let bias = forward.config().mlp_bias;
    let gate = forward.linear(layer, block, "mlp.gate_proj", x, bias)?;
    let up = forward.linear(layer, block, "mlp.up_proj", x, bias)?;
    let gate = forward.activation(gate);
    let gated = forward.graph().mul(gate, up)?;
    forward.linear(layer, block, "mlp.down_proj", gated, bias)
}
