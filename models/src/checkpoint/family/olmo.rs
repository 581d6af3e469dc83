//! OLMo 2 (arXiv 2501.00656) and OLMo 3: norms after attention and MLP instead of before, and norms of all
//! queries and all keys. OLMo 3 has a window in three of four layers.

use super::description::{FULL, Family, Reader, SLIDING, with_window};
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Decoder, LayerAttention, LayerNorms, QueryKeyNorm};
use crate::checkpoint::rope::{Rope, RopeDefaults, read_apart};
use crate::error::ModelError;

pub(super) const OLMO2: Family = Family {
    model_type: "olmo2",
    causal_lm: "Olmo2ForCausalLM",
    classifier: Some("Olmo2ForSequenceClassification"),
    padding: Some(1),
    decoder: olmo2,
    ..LLAMA
};

pub(super) const OLMO3: Family = Family {
    model_type: "olmo3",
    causal_lm: "Olmo3ForCausalLM",
    classifier: Some("Olmo3ForSequenceClassification"),
    rope: RopeDefaults { theta: 500_000.0, share: None },
    decoder: |reader| {
        let window = reader.window_or(Some(4096))?;
        let local = reader.local_layers(|layer| !(layer + 1).is_multiple_of(4))?;
        let layers = with_window(&local, window).into_iter().zip(&local);
        let decoder = olmo2(reader)?;
        Ok(Decoder {
            layers: layers
                .map(|(layer, &local)| LayerAttention { rope: Some(local.into()), ..layer })
                .collect(),
            ropes: vec![reader.rope(FULL)?, local_rope(reader)?],
            ..decoder
        })
    },
    ..OLMO2
};

fn olmo2(reader: &Reader<'_>) -> Result<Decoder, ModelError> {
    let decoder = reader.llama("rms_norm_eps", 1e-5)?;
    Ok(Decoder {
        norms: LayerNorms {
            before_attention: None,
            after_attention: Some("post_attention_layernorm"),
            before_mlp: None,
            after_mlp: Some("post_feedforward_layernorm"),
        },
        query_key_norm: Some(QueryKeyNorm::Whole),
        ..decoder
    })
}

/// The embedding of layers with a window is never scaled by `rope_scaling`.
fn local_rope(reader: &Reader<'_>) -> Result<Rope, ModelError> {
    let parameters = match reader.settings.group("rope_parameters")? {
        Some(by_type) => by_type.group(SLIDING)?.or(Some(by_type)),
        None => None,
    };
    let theta = reader.settings.positive("rope_theta")?.unwrap_or(OLMO3.rope.theta);
    read_apart(parameters.as_ref(), reader.rope_sizes(), theta)
}
