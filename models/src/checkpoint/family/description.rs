//! What a family is, and the layers of Llama, from which the others differ.

use crate::checkpoint::decoder::{
    Activation, Attention, Decoder, LayerAttention, LayerNorms, Mlp, Norm, linear,
};
use crate::checkpoint::rope::{self, Rope, RopeDefaults, RopeSizes};
use crate::checkpoint::settings::{Aliases, Settings, SizeDefaults};
use crate::error::ModelError;

/// A family of models.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `model_type` of its `config.json`.
    pub model_type: &'static str,
    /// The class of its language models in transformers.
    pub(crate) causal_lm: &'static str,
    /// The class of its sequence classifiers; `None` if transformers has none.
    pub(crate) classifier: Option<&'static str>,
    /// The names of its tensors outside the layers.
    pub(crate) names: Names,
    /// The prefix of its tensors in an adapter of PEFT, where it is another one.
    pub(crate) adapter_prefix: Option<&'static str>,
    /// Other names of its settings.
    pub(crate) aliases: Aliases,
    /// The sizes of settings that a file may omit.
    pub(crate) sizes: SizeDefaults,
    /// Whether the settings may state the width of heads and the number of key-value heads.
    pub(crate) grouped: bool,
    /// Whether the head is the token embedding if the settings do not say so.
    pub(crate) tied: bool,
    /// The projections that PEFT changes by default, or the usual ones where PEFT defines none.
    pub(crate) lora_targets: &'static [&'static str],
    /// The defaults of its rotary embedding.
    pub(in crate::checkpoint) rope: RopeDefaults,
    /// Returns the layers from the settings.
    pub(in crate::checkpoint) decoder: fn(&Reader<'_>) -> Result<Decoder, ModelError>,
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

/// The names of tensors outside the layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// The prefix of all names but the heads'.
    pub(crate) prefix: &'static str,
    pub(crate) embedding: &'static str,
    /// The table of learned positions.
    pub(crate) positions: Option<&'static str>,
    /// The list of layers.
    pub(crate) layers: &'static str,
    pub(crate) final_norm: &'static str,
    /// The vocabulary head.
    pub(crate) head: &'static str,
}

/// The names of Llama, which most families share.
pub(super) const NAMES: Names = Names {
    prefix: "model.",
    embedding: "embed_tokens",
    positions: None,
    layers: "layers",
    final_norm: "norm",
    head: "lm_head.weight",
};

/// The default projections of LoRA in most families.
pub(super) const QUERY_AND_VALUE: &[&str] = &["q_proj", "v_proj"];

/// The settings of a model with the sizes that all families have.
pub(in crate::checkpoint) struct Reader<'a> {
    pub(in crate::checkpoint) settings: &'a Settings,
    pub(in crate::checkpoint) hidden: usize,
    pub(in crate::checkpoint) head_dim: usize,
    pub(in crate::checkpoint) layers: usize,
    /// The longest sequence, in tokens.
    pub(in crate::checkpoint) context: usize,
    pub(in crate::checkpoint) family: &'static Family,
}

impl Reader<'_> {
    /// Returns the layers of Llama, with the epsilon under this key.
    pub(super) fn llama(&self, epsilon_key: &str, epsilon: f64) -> Result<Decoder, ModelError> {
        let settings = self.settings;
        let attention = settings.flag("attention_bias")?.unwrap_or(false);
        let mlp = settings.flag("mlp_bias")?.unwrap_or(false);
        #[expect(clippy::cast_precision_loss, reason = "a head has far fewer than 2²⁴ dimensions")]
        let attention_scale = (self.head_dim as f32).sqrt().recip();
        Ok(Decoder {
            norm: Norm::Rms,
            norm_epsilon: narrow(settings.number(epsilon_key)?.unwrap_or(epsilon)),
            norms: LayerNorms {
                before_attention: Some("input_layernorm"),
                after_attention: None,
                before_mlp: Some("post_attention_layernorm"),
                after_mlp: None,
            },
            parallel: None,
            attention: apart(attention),
            output: linear("self_attn.o_proj", attention),
            query_key_norm: None,
            mlp: Mlp::Gated {
                gate: linear("mlp.gate_proj", mlp),
                up: linear("mlp.up_proj", mlp),
                down: linear("mlp.down_proj", mlp),
            },
            activation: self.activation("hidden_act", "silu")?,
            layers: vec![LayerAttention { rope: Some(0), window: None }; self.layers],
            ropes: vec![self.rope(FULL)?],
            interleaved: false,
            inputs_first: false,
            attention_scale,
            score_cap: None,
            logit_cap: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
        })
    }

    pub(super) fn activation(&self, key: &str, default: &str) -> Result<Activation, ModelError> {
        match self.settings.text(key)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => Err(self.settings.error(format!("{key} {other:?} is not supported"))),
        }
    }

    /// Returns the rotary embedding of the layers of a type.
    pub(super) fn rope(&self, layer_type: &str) -> Result<Rope, ModelError> {
        rope::read(self.settings, layer_type, self.rope_sizes(), self.family.rope)
    }

    pub(super) fn rope_sizes(&self) -> RopeSizes {
        RopeSizes { head_dim: self.head_dim, context: self.context }
    }

    /// Returns the window of the layers that have one, in tokens. Null stands for none, and an absent key for
    /// the default.
    pub(super) fn window_or(&self, default: Option<usize>) -> Result<Option<usize>, ModelError> {
        let stated = self.settings.keys().contains_key("sliding_window");
        if stated { self.settings.size("sliding_window") } else { Ok(default) }
    }

    /// Returns for each layer whether its attention has a window. `layer_types` says so, else the rule of the
    /// family, by the index of the layer.
    pub(super) fn local_layers(&self, rule: impl Fn(usize) -> bool) -> Result<Vec<bool>, ModelError> {
        let Some(types) = self.settings.texts("layer_types")? else {
            return Ok((0..self.layers).map(rule).collect());
        };
        if types.len() < self.layers {
            return Err(self.settings.error(format!(
                "layer_types has {} entries for {} layers",
                types.len(),
                self.layers
            )));
        }
        let local = |kind: &&str| match *kind {
            SLIDING => Ok(true),
            FULL => Ok(false),
            other => Err(self.settings.error(format!("layer type {other:?} is not supported"))),
        };
        types[..self.layers].iter().map(local).collect()
    }

    /// Returns a number as the 32-bit float of the computation.
    pub(super) fn factor(&self, key: &str, default: f64) -> Result<f32, ModelError> {
        Ok(narrow(self.settings.number(key)?.unwrap_or(default)))
    }

    /// Returns a bound of [`Decoder::score_cap`]; 0 and null stand for none.
    pub(super) fn cap(&self, key: &str, default: Option<f64>) -> Result<Option<f32>, ModelError> {
        let stated = self.settings.keys().contains_key(key);
        let cap = if stated { self.settings.number(key)? } else { default };
        Ok(cap.filter(|cap| *cap != 0.0).map(narrow))
    }
}

/// The types of layers, in `layer_types` and in `rope_parameters`.
pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

/// Returns the projections of Llama to query, key and value.
pub(super) const fn apart(bias: bool) -> Attention {
    Attention::Apart {
        query: linear("self_attn.q_proj", bias),
        key: linear("self_attn.k_proj", bias),
        value: linear("self_attn.v_proj", bias),
    }
}

/// Returns the attention of layers of two types: local ones have the window.
pub(super) fn with_window(local: &[bool], window: Option<usize>) -> Vec<LayerAttention> {
    let layer = |&local: &bool| LayerAttention { rope: Some(0), window: window.filter(|_| local) };
    local.iter().map(layer).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "models compute with 32-bit floats")]
pub(super) fn narrow(number: f64) -> f32 {
    number as f32
}
