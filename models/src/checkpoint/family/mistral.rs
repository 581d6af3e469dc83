//! Mistral (arXiv 2310.06825): Llama with a window in all layers. Ministral: with a window in some layers.

use super::description::{Family, NAMES, QUERY_AND_VALUE, with_window};
use crate::checkpoint::decoder::Decoder;
use crate::checkpoint::rope::WHOLE_HEADS;

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    causal_lm: "MistralForCausalLM",
    classifier: Some("MistralForSequenceClassification"),
    names: NAMES,
    adapter_prefix: None,
    aliases: &[],
    sizes: &[],
    grouped: true,
    tied: false,
    lora_targets: QUERY_AND_VALUE,
    rope: WHOLE_HEADS,
    decoder: |reader| {
        let decoder = reader.llama("rms_norm_eps", 1e-6)?;
        let window = reader.window_or(Some(4096))?;
        Ok(Decoder { layers: with_window(&vec![true; reader.layers], window), ..decoder })
    },
};

pub(super) const MINISTRAL: Family = Family {
    model_type: "ministral",
    causal_lm: "MinistralForCausalLM",
    classifier: Some("MinistralForSequenceClassification"),
    names: NAMES,
    adapter_prefix: None,
    aliases: &[],
    sizes: &[],
    grouped: true,
    tied: false,
    lora_targets: QUERY_AND_VALUE,
    rope: WHOLE_HEADS,
    decoder: |reader| {
        let decoder = reader.llama("rms_norm_eps", 1e-6)?;
        let window = reader.window_or(Some(4096))?;
        let local = reader.local_layers(|_| window.is_some())?;
        Ok(Decoder { layers: with_window(&local, window), ..decoder })
    },
};
