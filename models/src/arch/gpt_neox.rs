//! GPT-NeoX (Pythia): layer norms with bias, one projection for query, key and value, partial rotary positions, and a
//! feed-forward block that reads the same residual as attention (or, in sequential models, attention's sum).

use crate::checkpoint::{Activation, ModelConfig};
use crate::error::ModelError;
use crate::onnx::{Dim, Value};

use super::Decoder;

/// The final norm's output at the picked positions, `[picked, hidden]`.
pub(super) fn hidden_states(decoder: &mut Decoder<'_>) -> Result<Value, ModelError> {
    let mut residual = decoder.embedding("gpt_neox.embed_in.weight")?;
    for layer in 0..decoder.config.layers {
        let block = format!("gpt_neox.layers.{layer}");
        let normed = layer_norm(decoder, &format!("{block}.input_layernorm"), residual)?;
        let attended = self_attention(decoder, layer, &block, normed)?;
        let summed = decoder.graph.add(attended, residual)?;
        let source = if decoder.config.parallel_residual { residual } else { summed };
        let normed = layer_norm(decoder, &format!("{block}.post_attention_layernorm"), source)?;
        let output = feed_forward(decoder, layer, &block, normed)?;
        residual = decoder.graph.add(output, summed)?;
    }
    let picked = decoder.pick(residual);
    layer_norm(decoder, "gpt_neox.final_layer_norm", picked)
}

fn layer_norm(decoder: &mut Decoder<'_>, name: &str, x: Value) -> Result<Value, ModelError> {
    let weight = decoder.weight(&format!("{name}.weight"))?;
    let bias = decoder.weight(&format!("{name}.bias"))?;
    Ok(decoder.graph.layer_norm(x, weight, bias, decoder.config.norm_eps))
}

fn self_attention(
    decoder: &mut Decoder<'_>,
    layer: usize,
    block: &str,
    x: Value,
) -> Result<Value, ModelError> {
    let ModelConfig { heads, head_dim, attention_bias, .. } = *decoder.config;
    let fused = decoder.linear(layer, block, "attention.query_key_value", x, attention_bias)?;
    // Query, key and value alternate head by head: [heads, 3, head_dim].
    let [batch, seq] = [Dim::Named("batch"), Dim::Named("seq")];
    let by_head = decoder.graph.reshape(fused, vec![batch, seq, Dim::Fixed(heads), Dim::Fixed(3 * head_dim)]);
    let mut parts = Vec::with_capacity(3);
    for part in decoder.graph.split_last(by_head, 3)? {
        parts.push(decoder.graph.reshape(part, vec![batch, seq, Dim::Fixed(heads * head_dim)]));
    }
    let attended = decoder.attention(layer, parts[0], parts[1], parts[2])?;
    decoder.linear(layer, block, "attention.dense", attended, attention_bias)
}

fn feed_forward(decoder: &mut Decoder<'_>, layer: usize, block: &str, x: Value) -> Result<Value, ModelError> {
    let wide = decoder.linear(layer, block, "mlp.dense_h_to_4h", x, true)?;
    let active = match decoder.config.activation {
        Activation::Silu => decoder.graph.silu(wide),
        Activation::Gelu => decoder.graph.gelu(wide, false),
        Activation::GeluTanh => decoder.graph.gelu(wide, true),
    };
    decoder.linear(layer, block, "mlp.dense_4h_to_h", active, true)
}
