//! Phi-3 (arXiv 2404.14219) and Phi-4-mini (arXiv 2503.01743): Llama with joined projections, a window in all
//! layers, and `LongRoPE`.

use super::description::{Family, with_window};
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Attention, Decoder, Mlp, linear};
use crate::checkpoint::rope::RopeDefaults;

pub(super) const PHI3: Family = Family {
    model_type: "phi3",
    causal_lm: "Phi3ForCausalLM",
    classifier: Some("Phi3ForSequenceClassification"),
    padding: Some(32_000),
    // PEFT defines none.
    lora_targets: &["qkv_proj"],
    rope: RopeDefaults { theta: 10_000.0, share: Some(1.0) },
    decoder: |reader| {
        let decoder = reader.llama("rms_norm_eps", 1e-5)?;
        let window = reader.window_or(None)?;
        Ok(Decoder {
            layers: with_window(&vec![true; reader.layers], window),
            attention: Attention::Joined(linear("self_attn.qkv_proj", false)),
            mlp: Mlp::GatedJoined {
                gate_up: linear("mlp.gate_up_proj", false),
                down: linear("mlp.down_proj", false),
            },
            ..decoder
        })
    },
    ..LLAMA
};
