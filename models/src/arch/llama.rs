//! Llama and its likes: root-mean-square norms before each block, gated SiLU, grouped-query attention.

use crate::checkpoint::Activation;
use crate::error::ModelError;
use crate::onnx::Value;

use super::Decoder;

/// The final norm's output at the picked positions, `[picked, hidden]`.
pub(super) fn hidden_states(decoder: &mut Decoder<'_>) -> Result<Value, ModelError> {
    let epsilon = decoder.config.norm_eps;
    let mut residual = decoder.embedding("model.embed_tokens.weight")?;
    let mut block_output = None;
    for layer in 0..decoder.config.layers {
        let block = format!("model.layers.{layer}");
        let weight = decoder.weight(&format!("{block}.input_layernorm.weight"))?;
        let normed = match block_output {
            None => decoder.graph.rms_norm(residual, weight, epsilon),
            Some(output) => {
                let (normed, sum) = decoder.graph.add_rms_norm(residual, output, weight, epsilon);
                residual = sum;
                normed
            }
        };
        let attended = self_attention(decoder, layer, &block, normed)?;
        let weight = decoder.weight(&format!("{block}.post_attention_layernorm.weight"))?;
        let (normed, sum) = decoder.graph.add_rms_norm(residual, attended, weight, epsilon);
        residual = sum;
        block_output = Some(feed_forward(decoder, layer, &block, normed)?);
    }
    if let Some(output) = block_output {
        residual = decoder.graph.add(residual, output)?;
    }
    let picked = decoder.pick(residual);
    let weight = decoder.weight("model.norm.weight")?;
    Ok(decoder.graph.rms_norm(picked, weight, epsilon))
}

fn self_attention(
    decoder: &mut Decoder<'_>,
    layer: usize,
    block: &str,
    x: Value,
) -> Result<Value, ModelError> {
    let bias = decoder.config.attention_bias;
    let query = decoder.linear(layer, block, "self_attn.q_proj", x, bias)?;
    let key = decoder.linear(layer, block, "self_attn.k_proj", x, bias)?;
    let value = decoder.linear(layer, block, "self_attn.v_proj", x, bias)?;
    let attended = decoder.attention(layer, query, key, value)?;
    decoder.linear(layer, block, "self_attn.o_proj", attended, bias)
}

fn feed_forward(decoder: &mut Decoder<'_>, layer: usize, block: &str, x: Value) -> Result<Value, ModelError> {
    let bias = decoder.config.mlp_bias;
    let gate = decoder.linear(layer, block, "mlp.gate_proj", x, bias)?;
    let up = decoder.linear(layer, block, "mlp.up_proj", x, bias)?;
    let gate = match decoder.config.activation {
        Activation::Silu => decoder.graph.silu(gate),
        Activation::Gelu => decoder.graph.gelu(gate, false),
        Activation::GeluTanh => decoder.graph.gelu(gate, true),
    };
    let gated = decoder.graph.mul(gate, up)?;
    decoder.linear(layer, block, "mlp.down_proj", gated, bias)
}
