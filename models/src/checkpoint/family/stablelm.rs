//! `StableLM` (arXiv 2402.17834): Llama with layer norms and partial rotary positions, in some models with
//! biases or with attention and MLP beside each other.

use super::description::{Family, apart};
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Decoder, LayerNorms, Norm, Parallel, linear};
use crate::checkpoint::rope::RopeDefaults;

pub(super) const STABLELM: Family = Family {
    model_type: "stablelm",
    causal_lm: "StableLmForCausalLM",
    classifier: Some("StableLmForSequenceClassification"),
    rope: RopeDefaults { theta: 10_000.0, share: Some(0.25) },
    decoder: |reader| {
        let settings = reader.settings;
        if settings.flag("qk_layernorm")?.unwrap_or(false) {
            return Err(settings.error("qk_layernorm is not supported for stablelm"));
        }
        let bias = settings.flag("use_qkv_bias")?.unwrap_or(false);
        let parallel = settings.flag("use_parallel_residual")?.unwrap_or(false);
        let decoder = reader.llama("layer_norm_eps", 1e-5)?;
        Ok(Decoder {
            norm: Norm::Layer,
            // Models in parallel have one norm for both blocks.
            norms: LayerNorms { before_mlp: decoder.norms.before_mlp.filter(|_| !parallel), ..decoder.norms },
            parallel: parallel.then_some(Parallel::SharedNorm),
            attention: apart(bias),
            output: linear("self_attn.o_proj", false),
            ..decoder
        })
    },
    ..LLAMA
};
