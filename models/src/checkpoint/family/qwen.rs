//! Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115): Llama with biases of query, key and value. Qwen 3 (arXiv
//! 2505.09388): without biases, with norms of each head's query and key.

use super::description::{Family, NAMES, QUERY_AND_VALUE, Reader, with_window};
use crate::checkpoint::decoder::{Attention, Decoder, LayerAttention, QueryKeyNorm, linear};
use crate::checkpoint::rope::WHOLE_HEADS;
use crate::error::ModelError;

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    causal_lm: "Qwen2ForCausalLM",
    classifier: Some("Qwen2ForSequenceClassification"),
    names: NAMES,
    adapter_prefix: None,
    aliases: &[],
    sizes: &[],
    grouped: true,
    tied: false,
    lora_targets: QUERY_AND_VALUE,
    rope: WHOLE_HEADS,
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
};

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3",
    causal_lm: "Qwen3ForCausalLM",
    classifier: Some("Qwen3ForSequenceClassification"),
    names: NAMES,
    adapter_prefix: None,
    aliases: &[],
    sizes: &[("head_dim", 128)],
    grouped: true,
    tied: false,
    lora_targets: QUERY_AND_VALUE,
    rope: WHOLE_HEADS,
    decoder: |reader| {
        let decoder = reader.llama("rms_norm_eps", 1e-6)?;
        Ok(Decoder { layers: layers(reader)?, query_key_norm: Some(QueryKeyNorm::Head), ..decoder })
    },
};

/// The window counts only where `use_sliding_window` is set, and from layer `max_window_layers` on.
fn layers(reader: &Reader<'_>) -> Result<Vec<LayerAttention>, ModelError> {
    let used = reader.settings.flag("use_sliding_window")?.unwrap_or(false);
    let window = reader.window_or(Some(4096))?.filter(|_| used);
    let first = reader.settings.size("max_window_layers")?.unwrap_or(28);
    let local = reader.local_layers(|layer| window.is_some() && layer >= first)?;
    Ok(with_window(&local, window))
}
