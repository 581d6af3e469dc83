//! The operators of graphs.

use super::value::{ElementType, Value};

/// An operator with its attributes. Standard ONNX operators are of opset 21; the fused ones are ONNX
/// Runtime's own.
///
/// Inputs and outputs are written as `inputs → outputs`. Axes count from the outermost, from 0.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `a, b → a + b`, broadcast.
    Add,
    /// `a, b → a − b`, broadcast.
    Sub,
    /// `a, b → a · b` element by element, broadcast.
    Mul,
    /// `a, b → a / b`, broadcast.
    Div,
    /// `a, b → the lesser`, broadcast.
    Min,
    /// `a, b → the greater`, broadcast.
    Max,
    /// `x → −x`.
    Neg,
    /// `x → eˣ`.
    Exp,
    /// `x → ln x`.
    Log,
    /// `x → √x`.
    Sqrt,
    /// `x → 1 / x`.
    Reciprocal,
    /// `x → σ(x) = 1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `x → ln(1 + eˣ)`.
    Softplus,
    /// `x → tanh x`.
    Tanh,
    /// `x → |x|`.
    Abs,
    /// `x → −1, 0 or 1`.
    Sign,
    /// `x → erf x`.
    Erf,
    /// `x → x · σ(x)`.
    Silu,
    /// `x → x · Φ(x)`.
    Gelu {
        /// Whether Φ is approximated with tanh.
        tanh: bool,
    },
    /// `x → min(max(x, low), high)`.
    Clip {
        /// The lower bound.
        low: f32,
        /// The upper bound.
        high: f32,
    },
    /// `a, b → a > b`, broadcast.
    Greater,
    /// `a, b → a ≤ b`, broadcast.
    LessOrEqual,
    /// `condition, a, b → a where the condition holds, else b`, broadcast.
    Where,
    /// `x → x` in another element type.
    Cast {
        /// The element type of the result.
        to: ElementType,
    },
    /// `x → x` without a gradient. It is a Cast to the same type, since Identity has no kernel of this
    /// operator set on CUDA.
    StopGradient {
        /// The element type of x.
        element: ElementType,
    },
    /// `x [.., in], w [out, in] → x · wᵀ [.., out]`: a linear layer with the weight as checkpoints store it.
    Linear,
    /// `a [.., m, k], b [.., k, n] → alpha · a · b [.., m, n]`. Each may be transposed first; outer axes are
    /// broadcast.
    MatMul {
        /// Whether the last two axes of `a` are transposed first.
        transpose_a: bool,
        /// Whether the last two axes of `b` are transposed first.
        transpose_b: bool,
        /// The factor.
        alpha: f32,
    },
    /// `x [.., inputs], q, scales → x · wᵀ [.., outputs]`, for w in blocks along its rows: see
    /// [`PackedMatrix`](crate::checkpoint::weights::PackedMatrix). Its constants are no operand.
    PackedLinear {
        /// Rows of w.
        outputs: usize,
        /// Columns of w.
        inputs: usize,
        /// The blocks.
        blocks: Blocks,
    },
    /// `q, ids, scales → rows of w`, for w as in [`Op::PackedLinear`].
    PackedGather(Blocks),
    /// `table [n, ..], ids → rows of the table`; an id of −1 is the last row.
    Gather,
    /// `x [n, ..], index → rows of x`, as [`Op::Gather`]. Its gradient is a Gather by `inverse`.
    GatherPaired {
        /// The new index of each row of x; −1 for a row that is not gathered.
        inverse: Value,
        /// Whether every row of x is gathered.
        covers: bool,
    },
    /// `x [rows, n], ids [rows, 1] → x at those columns [rows, 1]`.
    GatherElements,
    /// `x, ids, updates → x` with the updates added at these indices of an axis.
    ScatterAdd {
        /// The axis.
        axis: usize,
    },
    /// `x [n, ..], ids [m, 1], rows [m, ..] → x` with these rows in the places of `ids`.
    ReplaceRows,
    /// `x, shape`, with a constant shape: `-1` is inferred, `0` is copied.
    Reshape {
        /// The new dimensions.
        shape: Vec<i64>,
    },
    /// `x, shape → x` in the shape given by the second operand.
    ReshapeTo,
    /// `x → [1]`, the size of one axis, a 64-bit integer.
    Size {
        /// The axis.
        axis: usize,
    },
    /// `x → [rank]`, its shape, 64-bit integers.
    ShapeOf,
    /// `x, shape → x` broadcast to that shape.
    Expand,
    /// `x → x` with its axes permuted.
    Transpose {
        /// The axis of x that becomes each axis of the result.
        perm: Vec<usize>,
    },
    /// `x → x` with one more axis of size 1.
    Unsqueeze {
        /// The axis of the result.
        axis: usize,
    },
    /// `x → x` without an axis of size 1.
    Squeeze {
        /// The axis.
        axis: usize,
    },
    /// `values → one value`, concatenated along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// `x → parts` along an axis.
    Split {
        /// The axis.
        axis: usize,
        /// The size of each part.
        sizes: Vec<usize>,
    },
    /// `x → part of x` along an axis.
    Slice {
        /// The first index.
        axis: usize,
        /// The index after the last.
        start: usize,
        /// The index after the last.
        end: usize,
    },
    /// `x → its sum` over some axes.
    ReduceSum {
        /// The axes.
        axes: Vec<usize>,
        /// Whether they stay, with size 1.
        keep: bool,
    },
    /// `x → its mean` over some axes.
    ReduceMean {
        /// The axes.
        axes: Vec<usize>,
        /// Whether they stay, with size 1.
        keep: bool,
    },
    /// `x → max x` over one axis, which stays with size 1.
    ReduceMax {
        /// The axis.
        axis: usize,
    },
    /// `x → eˣ / Σ eˣ` over the last axis.
    Softmax,
    /// `x → x − ln Σ eˣ` over the last axis.
    LogSoftmax,
    /// `x, weight → x / √(mean x² + ε) · weight` over the last axis (arXiv 1910.07467). The optional second
    /// output is `1 / √(mean x² + ε)`.
    RmsNorm {
        /// ε.
        epsilon: f32,
    },
    /// `x, skip, weight → norm, (), (), sum` where sum = x + skip and norm is the [`Op::RmsNorm`] of sum.
    AddRmsNorm {
        /// ε.
        epsilon: f32,
    },
    /// `x, weight, bias → (x − mean) / √(var + ε) · weight + bias` over the last axis (arXiv 1607.06450). The
    /// optional second and third outputs are `mean` and `1 / √(var + ε)`.
    LayerNorm {
        /// ε.
        epsilon: f32,
    },
    /// `x [batch, seq, heads · head_dim], position_ids [batch, seq], cos, sin [positions, rotary/2] → x`
    /// rotated (arXiv 2104.09864).
    Rotary(RotaryHeads),
    /// Causal attention over a cache that it extends (grouped queries: arXiv 2305.13245).
    ///
    /// `query [batch, seq, heads · d], key, value [batch, seq, kv_heads · d], past_key, past_value [batch,
    /// kv_heads, capacity, d], seqlens_k [batch] (each row's total length − 1), total_sequence_length [1]
    /// (the longest), cos?, sin? → output [batch, seq, heads · d], present_key, present_value`. If past and
    /// present share memory, the new keys and values are written in place.
    GroupQueryAttention {
        /// Query heads.
        heads: usize,
        /// Key-value heads.
        kv_heads: usize,
        /// Whether the operator rotates query and key itself, by the cos and sin inputs.
        rotary: bool,
        /// Factor, bound and window of scores.
        rule: AttentionRule,
    },
}

/// The blocks of a packed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Bits of an integer.
    pub bits: usize,
    /// Elements of a block.
    pub elements: usize,
}

/// How [`Op::GroupQueryAttention`] computes and weighs scores.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AttentionRule {
    /// The factor of scores; `None` for 1 / √head_dim.
    pub scale: Option<f32>,
    /// The bound c of scores s, as c · tanh(s / c).
    pub cap: Option<f32>,
    /// The number of tokens that a token sees, itself included; `None` for all.
    pub window: Option<usize>,
    /// Whether neighbours are rotated, not the halves of a head.
    pub interleaved: bool,
}

/// The heads that [`Op::Rotary`] rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotaryHeads {
    /// Their number.
    pub heads: usize,
    /// Rotated dimensions of each head.
    pub dims: usize,
    /// Whether neighbours form the pairs, not the two halves of the rotated dimensions.
    pub interleaved: bool,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A 32-bit float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// Integers.
    Ints(Vec<i64>),
    /// A string.
    Text(&'static str),
}

/// An operand that belongs to the operator. ONNX takes it as a constant tensor after the others.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    /// A vector of 64-bit integers.
    Ints(Vec<i64>),
    /// A 32-bit float.
    Scalar(f32),
}

/// The `accuracy_level` of `MatMulNBits` that multiplies integers: inputs are rounded to 8 bits in blocks.
const ROUNDED_TO_INT8: i64 = 4;

/// The domain of ONNX Runtime's own operators.
pub const CONTRIB: &str = "com.microsoft";

fn integer(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn int(value: usize) -> Attribute {
    Attribute::Int(integer(value))
}

fn integers(values: &[usize]) -> Vec<i64> {
    values.iter().copied().map(integer).collect()
}

fn flag(value: bool) -> Attribute {
    Attribute::Int(i64::from(value))
}

fn attention_attributes(
    [heads, kv_heads]: [usize; 2],
    rotary: bool,
    rule: &AttentionRule,
) -> Vec<(&'static str, Attribute)> {
    let mut attributes = vec![
        ("num_heads", int(heads)),
        ("kv_num_heads", int(kv_heads)),
        ("do_rotary", flag(rotary)),
        ("rotary_interleaved", flag(rule.interleaved)),
    ];
    attributes.extend(rule.scale.map(|scale| ("scale", Attribute::Float(scale))));
    attributes.extend(rule.cap.map(|cap| ("softcap", Attribute::Float(cap))));
    attributes.extend(rule.window.map(|window| ("local_window_size", int(window))));
    attributes
}

impl Op {
    /// Returns the domain and the name of the operator in ONNX.
    #[must_use]
    pub fn onnx_type(&self) -> (&'static str, &'static str) {
        match self {
            Self::Add => ("", "Add"),
            Self::Sub => ("", "Sub"),
            Self::Mul => ("", "Mul"),
            Self::Div => ("", "Div"),
            Self::Min => ("", "Min"),
            Self::Max => ("", "Max"),
            Self::Neg => ("", "Neg"),
            Self::Exp => ("", "Exp"),
            Self::Log => ("", "Log"),
            Self::Sqrt => ("", "Sqrt"),
            Self::Reciprocal => ("", "Reciprocal"),
            Self::Sigmoid => ("", "Sigmoid"),
            Self::Softplus => ("", "Softplus"),
            Self::Tanh => ("", "Tanh"),
            Self::Abs => ("", "Abs"),
            Self::Sign => ("", "Sign"),
            Self::Erf => ("", "Erf"),
            Self::Silu => (CONTRIB, "QuickGelu"),
            Self::Gelu { .. } => ("", "Gelu"),
            Self::Clip { .. } => ("", "Clip"),
            Self::Greater => ("", "Greater"),
            Self::LessOrEqual => ("", "LessOrEqual"),
            Self::Where => ("", "Where"),
            Self::Cast { .. } | Self::StopGradient { .. } => ("", "Cast"),
            Self::Linear => (CONTRIB, "FusedMatMul"),
            Self::MatMul { .. } if self.attributes().is_empty() => ("", "MatMul"),
            Self::MatMul { .. } => (CONTRIB, "FusedMatMul"),
            Self::PackedLinear { .. } => (CONTRIB, "MatMulNBits"),
            Self::PackedGather(_) => (CONTRIB, "GatherBlockQuantized"),
            Self::Gather | Self::GatherPaired { .. } => ("", "Gather"),
            Self::GatherElements => ("", "GatherElements"),
            Self::ScatterAdd { .. } => ("", "ScatterElements"),
            Self::ReplaceRows => ("", "ScatterND"),
            Self::Reshape { .. } | Self::ReshapeTo => ("", "Reshape"),
            Self::Size { .. } | Self::ShapeOf => ("", "Shape"),
            Self::Expand => ("", "Expand"),
            Self::Transpose { .. } => ("", "Transpose"),
            Self::Unsqueeze { .. } => ("", "Unsqueeze"),
            Self::Squeeze { .. } => ("", "Squeeze"),
            Self::Concat { .. } => ("", "Concat"),
            Self::Split { .. } => ("", "Split"),
            Self::Slice { .. } => ("", "Slice"),
            Self::ReduceSum { .. } => ("", "ReduceSum"),
            Self::ReduceMean { .. } => ("", "ReduceMean"),
            Self::ReduceMax { .. } => ("", "ReduceMax"),
            Self::Softmax => ("", "Softmax"),
            Self::LogSoftmax => ("", "LogSoftmax"),
            // ONNX Runtime registers this operator under the standard domain.
            Self::RmsNorm { .. } => ("", "SimplifiedLayerNormalization"),
            Self::AddRmsNorm { .. } => (CONTRIB, "SkipSimplifiedLayerNormalization"),
            Self::LayerNorm { .. } => ("", "LayerNormalization"),
            Self::Rotary(_) => (CONTRIB, "RotaryEmbedding"),
            Self::GroupQueryAttention { .. } => (CONTRIB, "GroupQueryAttention"),
        }
    }

    /// Returns the attributes, by their ONNX names.
    #[must_use]
    pub fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        match self {
            Self::Linear => vec![("transB", Attribute::Int(1))],
            Self::MatMul { transpose_a, transpose_b, alpha } => {
                let flags = [("transA", *transpose_a), ("transB", *transpose_b)];
                let mut attributes: Vec<_> = flags
                    .into_iter()
                    .filter(|(_, set)| *set)
                    .map(|(name, _)| (name, Attribute::Int(1)))
                    .collect();
                if alpha.to_bits() != 1.0_f32.to_bits() {
                    attributes.push(("alpha", Attribute::Float(*alpha)));
                }
                attributes
            }
            Self::PackedLinear { outputs, inputs, blocks } => vec![
                ("N", int(*outputs)),
                ("K", int(*inputs)),
                ("bits", int(blocks.bits)),
                ("block_size", int(blocks.elements)),
                ("accuracy_level", Attribute::Int(ROUNDED_TO_INT8)),
            ],
            Self::PackedGather(blocks) => vec![
                ("gather_axis", Attribute::Int(0)),
                ("quantize_axis", Attribute::Int(1)),
                ("bits", int(blocks.bits)),
                ("block_size", int(blocks.elements)),
            ],
            Self::Gather | Self::GatherPaired { .. } => vec![("axis", Attribute::Int(0))],
            Self::GatherElements => vec![("axis", Attribute::Int(1))],
            Self::ScatterAdd { axis } => vec![("axis", int(*axis)), ("reduction", Attribute::Text("add"))],
            Self::Size { axis } => vec![("start", int(*axis)), ("end", int(*axis + 1))],
            Self::Transpose { perm } => vec![("perm", Attribute::Ints(integers(perm)))],
            Self::Concat { axis } | Self::Split { axis, .. } => vec![("axis", int(*axis))],
            Self::ReduceSum { keep, .. } | Self::ReduceMean { keep, .. } => vec![("keepdims", flag(*keep))],
            Self::ReduceMax { .. } => vec![("keepdims", flag(true))],
            Self::Softmax | Self::LogSoftmax => vec![("axis", Attribute::Int(-1))],
            Self::Cast { to } | Self::StopGradient { element: to } => {
                vec![("to", Attribute::Int(i64::from(to.onnx_code())))]
            }
            Self::Silu => vec![("alpha", Attribute::Float(1.0))],
            Self::Gelu { tanh } => {
                vec![("approximate", Attribute::Text(if *tanh { "tanh" } else { "none" }))]
            }
            Self::RmsNorm { epsilon } | Self::LayerNorm { epsilon } => {
                vec![("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(*epsilon))]
            }
            Self::AddRmsNorm { epsilon } => vec![("epsilon", Attribute::Float(*epsilon))],
            Self::Rotary(RotaryHeads { heads, dims, interleaved }) => vec![
                ("num_heads", int(*heads)),
                ("rotary_embedding_dim", int(*dims)),
                ("interleaved", flag(*interleaved)),
            ],
            Self::GroupQueryAttention { heads, kv_heads, rotary, rule } => {
                attention_attributes([*heads, *kv_heads], *rotary, rule)
            }
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Min | Self::Max => Vec::new(),
            Self::Neg | Self::Exp | Self::Log | Self::Sqrt | Self::Reciprocal => Vec::new(),
            Self::Sigmoid | Self::Softplus | Self::Tanh | Self::Abs | Self::Sign | Self::Erf => Vec::new(),
            Self::Clip { .. } | Self::Greater | Self::LessOrEqual | Self::Where => Vec::new(),
            Self::Reshape { .. } | Self::ReshapeTo | Self::ShapeOf | Self::Expand => Vec::new(),
            Self::Unsqueeze { .. } | Self::Squeeze { .. } | Self::Slice { .. } => Vec::new(),
            Self::ReplaceRows => Vec::new(),
        }
    }

    /// Returns the operands that ONNX takes as constant tensors after the others, by name.
    #[must_use]
    pub fn constants(&self) -> Vec<(&'static str, Constant)> {
        let axis_of = |axis: &usize| vec![("axes", Constant::Ints(vec![integer(*axis)]))];
        match self {
            Self::Reshape { shape } => vec![("shape", Constant::Ints(shape.clone()))],
            Self::Unsqueeze { axis } | Self::Squeeze { axis } | Self::ReduceMax { axis } => axis_of(axis),
            Self::ReduceSum { axes, .. } | Self::ReduceMean { axes, .. } => {
                vec![("axes", Constant::Ints(integers(axes)))]
            }
            Self::Split { sizes, .. } => vec![("split", Constant::Ints(integers(sizes)))],
            Self::Slice { axis, start, end } => {
                let mut constants = vec![
                    ("starts", Constant::Ints(vec![integer(*start)])),
                    ("ends", Constant::Ints(vec![integer(*end)])),
                ];
                constants.extend(axis_of(axis));
                constants
            }
            Self::Clip { low, high } => {
                vec![("min", Constant::Scalar(*low)), ("max", Constant::Scalar(*high))]
            }
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Min | Self::Max => Vec::new(),
            Self::Neg | Self::Exp | Self::Log | Self::Sqrt | Self::Reciprocal => Vec::new(),
            Self::Sigmoid | Self::Softplus | Self::Tanh | Self::Abs | Self::Sign | Self::Erf => Vec::new(),
            Self::Silu | Self::Gelu { .. } | Self::Greater | Self::LessOrEqual | Self::Where => Vec::new(),
            Self::Cast { .. } | Self::StopGradient { .. } | Self::Linear | Self::MatMul { .. } => Vec::new(),
            Self::PackedLinear { .. } | Self::PackedGather(_) => Vec::new(),
            Self::Gather | Self::GatherPaired { .. } | Self::GatherElements => Vec::new(),
            Self::ReplaceRows => Vec::new(),
            Self::ScatterAdd { .. } | Self::ReshapeTo | Self::Size { .. } | Self::ShapeOf => Vec::new(),
            Self::Expand | Self::Transpose { .. } | Self::Concat { .. } => Vec::new(),
            Self::Softmax | Self::LogSoftmax => Vec::new(),
            Self::RmsNorm { .. } | Self::AddRmsNorm { .. } | Self::LayerNorm { .. } => Vec::new(),
            Self::Rotary(_) | Self::GroupQueryAttention { .. } => Vec::new(),
        }
    }
}
