//! Llama (Touvron et al. 2023, arXiv 2302.13971; Llama 2: arXiv 2307.09288; Llama 3: arXiv 2407.21783) and
//! models like it (SmolLM2, TinyLlama).

use super::description::{Family, NAMES, QUERY_AND_VALUE};
use crate::checkpoint::rope::WHOLE_HEADS;

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    causal_lm: "LlamaForCausalLM",
    classifier: Some("LlamaForSequenceClassification"),
    names: NAMES,
    adapter_prefix: None,
    aliases: &[],
    sizes: &[],
    grouped: true,
    tied: false,
    lora_targets: QUERY_AND_VALUE,
    rope: WHOLE_HEADS,
    decoder: |reader| reader.llama("rms_norm_eps", 1e-6),
};
