//! `StarCoder2` (arXiv 2402.19173): layer norms with bias, a plain MLP, biases, a window in all layers.

use super::description::{Family, apart, with_window};
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Decoder, Mlp, Norm, linear};

pub(super) const STARCODER2: Family = Family {
    model_type: "starcoder2",
    causal_lm: "Starcoder2ForCausalLM",
    classifier: Some("Starcoder2ForSequenceClassification"),
    tied: true,
    decoder: |reader| {
        let bias = reader.settings.flag("use_bias")?.unwrap_or(true);
        let decoder = reader.llama("norm_epsilon", 1e-5)?;
        Ok(Decoder {
            norm: Norm::Layer,
            layers: with_window(&vec![true; reader.layers], reader.window_or(None)?),
            attention: apart(bias),
            output: linear("self_attn.o_proj", bias),
            mlp: Mlp::Plain { up: linear("mlp.c_fc", bias), down: linear("mlp.c_proj", bias) },
            activation: reader.activation("hidden_act", "gelu_pytorch_tanh")?,
            ..decoder
        })
    },
    ..LLAMA
};
