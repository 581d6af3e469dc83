//! GPT-NeoX (Black et al. 2022, arXiv 2204.06745; Pythia: arXiv 2304.01373).
//!
//! Layer norms with bias, one projection for query, key and value of each head in turn, partial rotary
//! positions. Attention and MLP read the same residual, except in sequential models.

use super::description::{Family, Names};
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Attention, Mlp, Norm, Parallel, linear};
use crate::checkpoint::rope::RopeDefaults;

pub(super) const GPT_NEOX: Family = Family {
    model_type: "gpt_neox",
    causal_lm: "GPTNeoXForCausalLM",
    classifier: Some("GPTNeoXForSequenceClassification"),
    names: Names {
        prefix: "gpt_neox.",
        embedding: "embed_in",
        positions: None,
        layers: "layers",
        final_norm: "final_layer_norm",
        head: "embed_out.weight",
    },
    grouped: false,
    lora_targets: &["query_key_value"],
    rope: RopeDefaults { theta: 10_000.0, share: Some(0.25) },
    decoder: |reader| {
        let bias = reader.settings.flag("attention_bias")?.unwrap_or(true);
        let parallel = reader.settings.flag("use_parallel_residual")?.unwrap_or(true);
        let mut decoder = reader.llama("layer_norm_eps", 1e-5)?;
        decoder.norm = Norm::Layer;
        decoder.parallel = parallel.then_some(Parallel::OwnNorms);
        decoder.attention = Attention::ByHead(linear("attention.query_key_value", bias));
        decoder.output = linear("attention.dense", bias);
        decoder.mlp =
            Mlp::Plain { up: linear("mlp.dense_h_to_4h", true), down: linear("mlp.dense_4h_to_h", true) };
        decoder.activation = reader.activation("hidden_act", "gelu")?;
        Ok(decoder)
    },
    ..LLAMA
};
