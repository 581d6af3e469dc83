//! Command R (Cohere) and Cohere 2 (Command R7B, Aya; arXiv 2504.00698).
//!
//! Layer norms without bias, one for attention and MLP together, rotated pairs of neighbours, scaled logits.
//! Cohere 2 has a window in three of four layers, and no position embedding in the others.

use super::description::{Family, Reader, with_window};
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Decoder, LayerAttention, LayerNorms, Norm, Parallel, QueryKeyNorm};
use crate::checkpoint::rope::{RopeDefaults, WHOLE_HEADS};
use crate::error::ModelError;

pub(super) const COHERE: Family = Family {
    model_type: "cohere",
    causal_lm: "CohereForCausalLM",
    classifier: None,
    padding: Some(0),
    tied: true,
    rope: RopeDefaults { theta: 500_000.0, share: None },
    decoder: |reader| {
        let normed = reader.settings.flag("use_qk_norm")?.unwrap_or(false);
        let decoder = cohere(reader)?;
        Ok(Decoder { query_key_norm: normed.then_some(QueryKeyNorm::LayerByHead), ..decoder })
    },
    ..LLAMA
};

pub(super) const COHERE2: Family = Family {
    model_type: "cohere2",
    causal_lm: "Cohere2ForCausalLM",
    rope: WHOLE_HEADS,
    decoder: |reader| {
        let window = reader.window_or(Some(4096))?;
        let pattern = reader.settings.size("sliding_window_pattern")?.unwrap_or(4).max(1);
        let local = reader.local_layers(|layer| !(layer + 1).is_multiple_of(pattern))?;
        let layers = with_window(&local, window).into_iter().zip(&local);
        let decoder = cohere(reader)?;
        Ok(Decoder {
            layers: layers
                .map(|(layer, local)| LayerAttention { rope: local.then_some(0), ..layer })
                .collect(),
            ..decoder
        })
    },
    ..COHERE
};

fn cohere(reader: &Reader<'_>) -> Result<Decoder, ModelError> {
    let decoder = reader.llama("layer_norm_eps", 1e-5)?;
    Ok(Decoder {
        norm: Norm::LayerNoBias,
        norms: LayerNorms { before_mlp: None, ..decoder.norms },
        parallel: Some(Parallel::SharedNorm),
        interleaved: true,
        logit_scale: reader.factor("logit_scale", 0.0625)?,
        ..decoder
    })
}
