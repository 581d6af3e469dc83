//! Mistral (arXiv 2310.06825): Llama with a window in all layers. Ministral: with a window in some layers.

use super::description::{Family, with_window};
use super::llama::LLAMA;
use crate::checkpoint::decoder::Decoder;

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    causal_lm: "MistralForCausalLM",
    classifier: Some("MistralForSequenceClassification"),
    decoder: |reader| {
        let decoder = reader.llama("rms_norm_eps", 1e-6)?;
        let window = reader.window_or(Some(4096))?;
        Ok(Decoder { layers: with_window(&vec![true; reader.layers], window), ..decoder })
    },
    ..LLAMA
};

pub(super) const MINISTRAL: Family = Family {
    model_type: "ministral",
    causal_lm: "MinistralForCausalLM",
    classifier: Some("MinistralForSequenceClassification"),
    decoder: |reader| {
        let decoder = reader.llama("rms_norm_eps", 1e-6)?;
        let window = reader.window_or(Some(4096))?;
        let local = reader.local_layers(|_| window.is_some())?;
        Ok(Decoder { layers: with_window(&local, window), ..decoder })
    },
    ..LLAMA
};
