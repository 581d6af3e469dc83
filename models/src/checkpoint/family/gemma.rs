//! Gemma (arXiv 2403.08295), Gemma 2 (arXiv 2408.00118) and the text part of Gemma 3 (arXiv 2503.19786).
//!
//! Embeddings are scaled by √width, and norms store their factor minus one. Gemma 2 and 3 also normalise the
//! outputs of attention and MLP, and alternate layers with and without a window. Gemma 2 bounds scores and
//! logits; Gemma 3 normalises queries and keys, and has one rotary embedding for each type of layer.

use super::description::{FULL, Family, Reader, SLIDING, narrow, with_window};
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Activation, Decoder, LayerAttention, LayerNorms, Norm, QueryKeyNorm};
use crate::checkpoint::rope::{Rope, RopeDefaults, read_apart};
use crate::error::ModelError;

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    causal_lm: "GemmaForCausalLM",
    classifier: Some("GemmaForSequenceClassification"),
    sizes: &[("head_dim", 256)],
    padding: Some(0),
    tied: true,
    decoder: gemma,
    ..LLAMA
};

pub(super) const GEMMA2: Family = Family {
    model_type: "gemma2",
    causal_lm: "Gemma2ForCausalLM",
    classifier: Some("Gemma2ForSequenceClassification"),
    decoder: |reader| {
        let window = reader.window_or(Some(4096))?;
        let local = reader.local_layers(|layer| layer % 2 == 0)?;
        Ok(Decoder {
            layers: with_window(&local, window),
            score_cap: reader.cap("attn_logit_softcapping", Some(50.0))?,
            logit_cap: reader.cap("final_logit_softcapping", Some(30.0))?,
            ..with_four_norms(reader)?
        })
    },
    ..GEMMA
};

pub(super) const GEMMA3_TEXT: Family = Family {
    model_type: "gemma3_text",
    causal_lm: "Gemma3ForCausalLM",
    classifier: Some("Gemma3TextForSequenceClassification"),
    sizes: &[
        ("head_dim", 256),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 131_072),
        ("vocab_size", 262_208),
    ],
    rope: RopeDefaults { theta: 1_000_000.0, share: None },
    decoder: |reader| {
        if reader.settings.flag("use_bidirectional_attention")?.unwrap_or(false) {
            return Err(reader
                .settings
                .error("use_bidirectional_attention is not supported: use a causal model"));
        }
        let window = reader.window_or(Some(4096))?;
        let pattern = reader.settings.size("sliding_window_pattern")?;
        let pattern = pattern.or(reader.settings.size("_sliding_window_pattern")?).unwrap_or(6).max(1);
        let local = reader.local_layers(|layer| !(layer + 1).is_multiple_of(pattern))?;
        let layers = with_window(&local, window).into_iter().zip(&local);
        let decoder = with_four_norms(reader)?;
        Ok(Decoder {
            layers: layers
                .map(|(layer, &local)| LayerAttention { rope: Some(local.into()), ..layer })
                .collect(),
            ropes: vec![reader.rope(FULL)?, local_rope(reader)?],
            query_key_norm: Some(QueryKeyNorm::Head),
            score_cap: reader.cap("attn_logit_softcapping", None)?,
            logit_cap: reader.cap("final_logit_softcapping", None)?,
            ..decoder
        })
    },
    ..GEMMA
};

/// The text part of a multimodal model.
pub(super) const GEMMA3: Family =
    Family { model_type: "gemma3", adapter_prefix: Some("model.language_model."), ..GEMMA3_TEXT };

fn gemma(reader: &Reader<'_>) -> Result<Decoder, ModelError> {
    let decoder = reader.llama("rms_norm_eps", 1e-6)?;
    let activation = if reader.family.model_type == GEMMA.model_type {
        match reader.activation("hidden_act", "gelu_pytorch_tanh")? {
            // The first files name the exact function; the models were trained with the approximation.
            Activation::Gelu | Activation::GeluTanh => Activation::GeluTanh,
            Activation::Silu => Activation::Silu,
        }
    } else {
        reader.activation("hidden_activation", "gelu_pytorch_tanh")?
    };
    #[expect(clippy::cast_precision_loss, reason = "a width has far fewer than 2⁵³ dimensions")]
    let embedding_scale = narrow((reader.hidden as f64).sqrt());
    Ok(Decoder { norm: Norm::RmsPlusOne, activation, embedding_scale, ..decoder })
}

fn with_four_norms(reader: &Reader<'_>) -> Result<Decoder, ModelError> {
    let scalar = reader.settings.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok(Decoder {
        norms: LayerNorms {
            before_attention: Some("input_layernorm"),
            after_attention: Some("post_attention_layernorm"),
            before_mlp: Some("pre_feedforward_layernorm"),
            after_mlp: Some("post_feedforward_layernorm"),
        },
        attention_scale: narrow(scalar.powf(-0.5)),
        ..gemma(reader)?
    })
}

/// The embedding of layers with a window is never scaled by `rope_scaling`.
fn local_rope(reader: &Reader<'_>) -> Result<Rope, ModelError> {
    let parameters = match reader.settings.group("rope_parameters")? {
        Some(by_type) => by_type.group(SLIDING)?,
        None => None,
    };
    let theta = reader.settings.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
    read_apart(parameters.as_ref(), reader.rope_sizes(), theta)
}
