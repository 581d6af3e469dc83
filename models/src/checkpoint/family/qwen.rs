//! Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115): Llama with biases of query, key and value. Qwen 3 (arXiv
//! 2505.09388): without biases, with norms of each head's query and key.

use super::description::{Family, Reader, with_window};
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Attention, Decoder, LayerAttention, QueryKeyNorm, linear};
use crate::error::ModelError;

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    causal_lm: "Qwen2ForCausalLM",
    classifier: Some("Qwen2ForSequenceClassification"),
    decoder: |reader| {
        let attention = Attention::Apart {
            query: linear("self_attn.q_proj", true),
            key: linear("self_attn.k_proj", true),
            value: linear("self_attn.v_proj", true),
        };
        let decoder = reader.llama("rms_norm_eps", 1e-6)?;
        Ok(Decoder {
            layers: layers(reader)?,
            attention,
            output: linear("self_attn.o_proj", false),
            ..decoder
        })
    },
    ..LLAMA
};

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3",
    causal_lm: "Qwen3ForCausalLM",
    classifier: Some("Qwen3ForSequenceClassification"),
    sizes: &[("head_dim", 128)],
    decoder: |reader| {
        let decoder = reader.llama("rms_norm_eps", 1e-6)?;
        Ok(Decoder { layers: layers(reader)?, query_key_norm: Some(QueryKeyNorm::Head), ..decoder })
    },
    ..LLAMA
};

/// The window counts only where `use_sliding_window` is set, and from layer `max_window_layers` on.
fn layers(reader: &Reader<'_>) -> Result<Vec<LayerAttention>, ModelError> {
    let used = reader.settings.flag("use_sliding_window")?.unwrap_or(false);
    let window = reader.window_or(Some(4096))?.filter(|_| used);
    let first = reader.settings.size("max_window_layers")?.unwrap_or(28);
    let local = reader.local_layers(|layer| window.is_some() && layer >= first)?;
    Ok(with_window(&local, window))
}
