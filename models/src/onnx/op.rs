//! The operators that graphs are made of.

use super::graph::ElementType;

/// An operator with its attributes. Standard ONNX ones are of opset 21; the fused ones are ONNX Runtime's own.
///
/// Inputs and outputs are described as `inputs → outputs`.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `a, b → a + b`, broadcast.
    Add,
    /// `a, b → a · b` element by element, broadcast.
    Mul,
    /// `x [.., in], w [out, in] → x · wᵀ [.., out]`: a linear layer with the weight as checkpoints store it.
    Linear,
    /// `table [n, ..], ids → rows of the table`.
    Gather,
    /// `x, shape`, with the shape as a constant: `-1` is inferred.
    Reshape {
        /// The new dimensions.
        shape: Vec<i64>,
    },
    /// `x → parts` of equal size along an axis.
    Split {
        /// The axis, counted from the end when negative.
        axis: i64,
        /// How many parts.
        parts: usize,
    },
    /// `x → x` in another element type.
    Cast {
        /// The element type of the result.
        to: ElementType,
    },
    /// `x → x · σ(x)`.
    Silu,
    /// `x → x · Φ(x)`.
    Gelu {
        /// Whether Φ is approximated with tanh.
        tanh: bool,
    },
    /// `x, weight → x / √(mean x² + ε) · weight`, over the last axis.
    RmsNorm {
        /// ε.
        epsilon: f32,
    },
    /// `x, skip, weight → norm, (), (), sum` where sum = x + skip and norm is the [`Op::RmsNorm`] of sum.
    AddRmsNorm {
        /// ε.
        epsilon: f32,
    },
    /// `x, weight, bias → (x − mean) / √(var + ε) · weight + bias`, over the last axis.
    LayerNorm {
        /// ε.
        epsilon: f32,
    },
    /// `x [batch, seq, heads · head_dim], position_ids [batch, seq], cos, sin [positions, rotary/2] → x` rotated; the halves of a
    /// head's first `rotary_dims` dimensions form the pairs.
    Rotary {
        /// Heads in `x`.
        heads: usize,
        /// Rotated dimensions of each head.
        rotary_dims: usize,
    },
    /// Causal attention over a cache that it extends.
    ///
    /// `query [batch, seq, heads · d], key, value [batch, seq, kv_heads · d], past_key, past_value [batch, kv_heads, capacity, d],
    /// seqlens_k [batch] (each row's total length − 1), total_sequence_length [1] (the longest), cos?, sin? →
    /// output [batch, seq, heads · d], present_key, present_value`. When past and present are the same memory, the new keys and
    /// values are written in place.
    GroupQueryAttention {
        /// Query heads.
        heads: usize,
        /// Key-value heads.
        kv_heads: usize,
        /// Whether query and key are rotated inside, by the cos and sin inputs.
        rotary: bool,
    },
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A 32-bit float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// A string.
    Text(&'static str),
}

/// The domain of ONNX Runtime's own operators.
pub const CONTRIB: &str = "com.microsoft";

fn int(value: usize) -> Attribute {
    Attribute::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

impl Op {
    /// The domain and the name of the operator in ONNX.
    #[must_use]
    pub fn onnx_type(&self) -> (&'static str, &'static str) {
        match self {
            Self::Add => ("", "Add"),
            Self::Mul => ("", "Mul"),
            Self::Linear => (CONTRIB, "FusedMatMul"),
            Self::Gather => ("", "Gather"),
            Self::Reshape { .. } => ("", "Reshape"),
            Self::Split { .. } => ("", "Split"),
            Self::Cast { .. } => ("", "Cast"),
            Self::Silu => (CONTRIB, "QuickGelu"),
            Self::Gelu { .. } => ("", "Gelu"),
            // ONNX Runtime registers this one under the standard domain.
            Self::RmsNorm { .. } => ("", "SimplifiedLayerNormalization"),
            Self::AddRmsNorm { .. } => (CONTRIB, "SkipSimplifiedLayerNormalization"),
            Self::LayerNorm { .. } => ("", "LayerNormalization"),
            Self::Rotary { .. } => (CONTRIB, "RotaryEmbedding"),
            Self::GroupQueryAttention { .. } => (CONTRIB, "GroupQueryAttention"),
        }
    }

    /// The attributes, by their ONNX names.
    #[must_use]
    pub fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        match self {
            Self::Add | Self::Mul | Self::Reshape { .. } => Vec::new(),
            Self::Linear => vec![("transB", Attribute::Int(1))],
            Self::Gather => vec![("axis", Attribute::Int(0))],
            Self::Split { axis, parts } => {
                vec![("axis", Attribute::Int(*axis)), ("num_outputs", int(*parts))]
            }
            Self::Cast { to } => vec![("to", Attribute::Int(i64::from(to.onnx_code())))],
            Self::Silu => vec![("alpha", Attribute::Float(1.0))],
            Self::Gelu { tanh } => {
                vec![("approximate", Attribute::Text(if *tanh { "tanh" } else { "none" }))]
            }
            Self::RmsNorm { epsilon } | Self::LayerNorm { epsilon } => {
                vec![("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(*epsilon))]
            }
            Self::AddRmsNorm { epsilon } => vec![("epsilon", Attribute::Float(*epsilon))],
            Self::Rotary { heads, rotary_dims } => vec![
                ("num_heads", int(*heads)),
                ("rotary_embedding_dim", int(*rotary_dims)),
                ("interleaved", Attribute::Int(0)),
            ],
            Self::GroupQueryAttention { heads, kv_heads, rotary } => vec![
                ("num_heads", int(*heads)),
                ("kv_num_heads", int(*kv_heads)),
                ("do_rotary", Attribute::Int(i64::from(*rotary))),
                ("rotary_interleaved", Attribute::Int(0)),
            ],
        }
    }
}
