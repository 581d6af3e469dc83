//! The description of a decoder: everything in which one family of models differs from another.
//!
//! The forward pass, the list of tensors and the trainable projections read this one value. A family is a
//! function from settings to it.

use super::rope::Rope;

/// The structure of a decoder's layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoder {
    /// The kind of all norms of the residual stream.
    pub norm: Norm,
    /// Epsilon of the norms.
    pub norm_epsilon: f32,
    /// The norms of a layer.
    pub norms: LayerNorms,
    /// Whether attention and MLP read the same residual.
    pub parallel: Option<Parallel>,
    /// The projections to query, key and value.
    pub attention: Attention,
    /// The projection after attention.
    pub output: Linear,
    /// The norm of queries and keys before the rotary embedding.
    pub query_key_norm: Option<QueryKeyNorm>,
    /// The MLP.
    pub mlp: Mlp,
    /// Activation function of the MLP.
    pub activation: Activation,
    /// The attention of each layer.
    pub layers: Vec<LayerAttention>,
    /// The rotary embeddings; layers refer to them by index.
    pub ropes: Vec<Rope>,
    /// Whether neighbours form the pairs that are rotated, not the halves of a head.
    pub interleaved: bool,
    /// Whether projections are stored as `[inputs, outputs]` (`Conv1D` of GPT-2).
    pub inputs_first: bool,
    /// The factor of attention scores.
    pub attention_scale: f32,
    /// The bound c of attention scores s, as c · tanh(s / c).
    pub score_cap: Option<f32>,
    /// The bound of logits, likewise.
    pub logit_cap: Option<f32>,
    /// The factor of token embeddings.
    pub embedding_scale: f32,
    /// The factor of each block's output before it is added to the residual.
    pub residual_scale: f32,
    /// The factor of logits.
    pub logit_scale: f32,
}

/// The kind of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Root-mean-square norm (arXiv 1910.07467).
    Rms,
    /// Root-mean-square norm whose stored weight is the factor minus one.
    RmsPlusOne,
    /// Layer norm (arXiv 1607.06450) with a bias.
    Layer,
    /// Layer norm without a bias.
    LayerNoBias,
}

/// The names of a layer's norms, `None` for those that a family does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerNorms {
    /// Of attention's input.
    pub before_attention: Option<&'static str>,
    /// Of attention's output.
    pub after_attention: Option<&'static str>,
    /// Of the MLP's input.
    pub before_mlp: Option<&'static str>,
    /// Of the MLP's output.
    pub after_mlp: Option<&'static str>,
}

/// How attention and MLP share the residual they read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallel {
    /// Both read the output of one norm.
    SharedNorm,
    /// Each has its own norm.
    OwnNorms,
}

/// A linear projection within a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Its name within the layer.
    pub name: &'static str,
    /// Whether it has a bias.
    pub bias: bool,
}

/// The projections to query, key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// One projection each.
    Apart {
        /// To queries.
        query: Linear,
        /// To keys.
        key: Linear,
        /// To values.
        value: Linear,
    },
    /// One projection, whose output is queries, keys, values.
    Joined(Linear),
    /// One projection, whose output is query, key and value of each head in turn.
    ByHead(Linear),
}

/// The norm of queries and keys. Its tensors are `self_attn.q_norm` and `self_attn.k_norm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// Of each head, with one weight `[head_dim]`.
    Head,
    /// Of all heads together, with a weight `[heads · head_dim]`.
    Whole,
    /// Layer norm of each head, with a weight `[heads, head_dim]`.
    LayerByHead,
}

/// The MLP of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mlp {
    /// `down(activation(gate(x)) · up(x))` (SwiGLU and others, arXiv 2002.05202).
    Gated {
        /// Its output is activated.
        gate: Linear,
        /// Its output is multiplied.
        up: Linear,
        /// Back to the residual.
        down: Linear,
    },
    /// As [`Mlp::Gated`], with gate and up in one projection.
    GatedJoined {
        /// Gate, then up.
        gate_up: Linear,
        /// Back to the residual.
        down: Linear,
    },
    /// `down(activation(up(x)))`.
    Plain {
        /// Its output is activated.
        up: Linear,
        /// Back to the residual.
        down: Linear,
    },
}

/// The activation function of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// x · Φ(x), with the error function.
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`].
    GeluTanh,
}

/// The attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerAttention {
    /// The index of its rotary embedding; `None` for a layer without position embedding.
    pub rope: Option<usize>,
    /// The number of tokens that a token sees, itself included; `None` for all.
    pub window: Option<usize>,
}

/// Returns a projection.
pub(super) const fn linear(name: &'static str, bias: bool) -> Linear {
    Linear { name, bias }
}

impl Decoder {
    /// Returns the window of the layers that have one. All of them have the same.
    #[must_use]
    pub fn window(&self) -> Option<usize> {
        self.layers.iter().find_map(|layer| layer.window)
    }

    /// Checks the description. The error names the invalid part.
    pub(super) fn validate(&self, head_dim: usize) -> Result<(), String> {
        if !(self.norm_epsilon.is_finite() && self.norm_epsilon > 0.0) {
            return Err(format!("the epsilon {} of the norms is not positive", self.norm_epsilon));
        }
        for (name, factor) in [
            ("attention scores", self.attention_scale),
            ("embeddings", self.embedding_scale),
            ("block outputs", self.residual_scale),
            ("logits", self.logit_scale),
        ] {
            if !factor.is_finite() {
                return Err(format!("the factor {factor} of {name} is not finite"));
            }
        }
        for cap in [self.score_cap, self.logit_cap].into_iter().flatten() {
            if !(cap.is_finite() && cap > 0.0) {
                return Err(format!("the bound {cap} of a softcap is not positive"));
            }
        }
        for layer in &self.layers {
            if layer.window == Some(0) || layer.window.is_some() && layer.window != self.window() {
                return Err(format!("a window of {:?} tokens is not supported", layer.window));
            }
        }
        self.ropes.iter().try_for_each(|rope| rope.validate(head_dim))
    }
}
