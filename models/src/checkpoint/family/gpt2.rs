//! GPT-2 (Radford et al. 2019): learned positions, layer norms with bias, projections stored as
//! `[inputs, outputs]`.

use super::description::{Family, Names};
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Attention, Decoder, LayerAttention, LayerNorms, Mlp, Norm, linear};

pub(super) const GPT2: Family = Family {
    model_type: "gpt2",
    causal_lm: "GPT2LMHeadModel",
    classifier: Some("GPT2ForSequenceClassification"),
    names: Names {
        prefix: "transformer.",
        embedding: "wte",
        positions: Some("wpe"),
        layers: "h",
        final_norm: "ln_f",
        head: "lm_head.weight",
    },
    aliases: &[
        ("hidden_size", "n_embd"),
        ("intermediate_size", "n_inner"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "n_positions"),
    ],
    grouped: false,
    tied: true,
    lora_targets: &["c_attn"],
    decoder: |reader| {
        let settings = reader.settings;
        let scaled = settings.flag("scale_attn_weights")?.unwrap_or(true);
        let by_layer = settings.flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
        if by_layer || !scaled {
            return Err(settings
                .error("scale_attn_weights = false and scale_attn_by_inverse_layer_idx are not supported"));
        }
        let decoder = reader.llama("layer_norm_epsilon", 1e-5)?;
        Ok(Decoder {
            norm: Norm::Layer,
            norms: LayerNorms {
                before_attention: Some("ln_1"),
                after_attention: None,
                before_mlp: Some("ln_2"),
                after_mlp: None,
            },
            attention: Attention::Joined(linear("attn.c_attn", true)),
            output: linear("attn.c_proj", true),
            mlp: Mlp::Plain { up: linear("mlp.c_fc", true), down: linear("mlp.c_proj", true) },
            activation: reader.activation("activation_function", "gelu_new")?,
            layers: vec![LayerAttention { rope: None, window: None }; reader.layers],
            ropes: Vec::new(),
            inputs_first: true,
            ..decoder
        })
    },
    ..LLAMA
};
