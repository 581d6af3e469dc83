//! The forward pass of every family, from its description ([`crate::checkpoint::Decoder`]).

use crate::adapter::LoraTarget;
use crate::checkpoint::ModelConfig;
use crate::checkpoint::decoder::{Activation, Attention, Linear, Mlp, Norm, Parallel, QueryKeyNorm};
use crate::checkpoint::layout::{KEY_NORM, QUERY_NORM};
use crate::error::ModelError;
use crate::onnx::{Dim, ElementType, Value};

use super::forward::Forward;

/// Returns the final norm's output at the selected positions, `[selected, hidden]`.
pub(crate) fn hidden_states(forward: &mut impl Forward) -> Result<Value, ModelError> {
    let layers = forward.config().layers;
    let norms = forward.config().decoder.norms;
    let parallel = forward.config().decoder.parallel;
    let mut residual = embeddings(forward)?;
    // The last block's output, until the next norm adds it to the residual.
    let mut output = None;
    for layer in 0..layers {
        forward.begin_layer(layer);
        let block = Block { layer, name: forward.config().layer_name(layer) };
        let mut input;
        (input, residual) =
            add_and_norm(forward, residual, output.take(), block.norm(norms.before_attention))?;
        let mut mixed = self_attention(forward, &block, input)?;
        if layer + 1 == layers {
            // The other positions are not read from here on.
            (mixed, residual) = (forward.select_positions(mixed)?, forward.select_positions(residual)?);
            if parallel == Some(Parallel::SharedNorm) {
                input = forward.select_positions(input)?;
            }
        }
        let projection = forward.config().decoder.output;
        let attended = linear(forward, &block, projection, mixed)?;
        let attended = norm(forward, block.norm(norms.after_attention), attended)?;
        let before_mlp = block.norm(norms.before_mlp);
        let input = match parallel {
            None => {
                let (input, sum) = add_and_norm(forward, residual, Some(attended), before_mlp)?;
                residual = sum;
                input
            }
            Some(kind) => {
                let before = residual;
                residual = add(forward, residual, attended)?;
                if kind == Parallel::SharedNorm { input } else { norm(forward, before_mlp, before)? }
            }
        };
        let result = mlp(forward, &block, input)?;
        output = Some(norm(forward, block.norm(norms.after_mlp), result)?);
    }
    let name = forward.config().final_norm();
    Ok(add_and_norm(forward, residual, output, Some(name))?.0)
}

/// Returns the logits of hidden states, `[selected, vocabulary]`, from the name of the head's tensor. They
/// are 32-bit floats for any element type of hidden states.
pub(crate) fn logits(forward: &mut impl Forward, hidden: Value, head: &str) -> Result<Value, ModelError> {
    let (scale, cap) = (forward.config().decoder.logit_scale, forward.config().decoder.logit_cap);
    let logits = forward.product(hidden, head, false)?;
    let logits = forward.graph().cast(logits, ElementType::F32);
    let logits = scaled(forward, logits, scale);
    Ok(match cap {
        Some(cap) => forward.graph().soft_cap(logits, cap),
        None => logits,
    })
}

/// The place of one layer.
struct Block {
    layer: usize,
    name: String,
}

impl Block {
    /// Returns the full name of a norm of the layer, if it has this norm.
    fn norm(&self, name: Option<&str>) -> Option<String> {
        name.map(|name| format!("{}.{name}", self.name))
    }
}

fn embeddings(forward: &mut impl Forward) -> Result<Value, ModelError> {
    let (table, positions) = (forward.config().embedding(), forward.config().positions());
    let scale = forward.config().decoder.embedding_scale;
    let embedded = forward.embedding(&table)?;
    let embedded = scaled(forward, embedded, scale);
    match positions {
        Some(table) => {
            let positions = forward.position_embedding(&table)?;
            forward.graph().add(embedded, positions)
        }
        None => Ok(embedded),
    }
}

/// Adds a block's output to the residual, and returns the norm of the sum with the sum. Without a norm, the
/// sum is returned twice.
fn add_and_norm(
    forward: &mut impl Forward,
    residual: Value,
    output: Option<Value>,
    name: Option<String>,
) -> Result<(Value, Value), ModelError> {
    let decoder = &forward.config().decoder;
    let fused = decoder.norm == Norm::Rms && is_one(decoder.residual_scale);
    match (output, name) {
        (Some(output), Some(name)) if fused => {
            let weight = forward.weight(&format!("{name}.weight"))?;
            forward.add_rms_norm(residual, output, weight)
        }
        (output, name) => {
            let sum = match output {
                Some(output) => add(forward, residual, output)?,
                None => residual,
            };
            Ok((norm(forward, name, sum)?, sum))
        }
    }
}

/// residual + scale · output.
fn add(forward: &mut impl Forward, residual: Value, output: Value) -> Result<Value, ModelError> {
    let scale = forward.config().decoder.residual_scale;
    let output = scaled(forward, output, scale);
    forward.graph().add(output, residual)
}

/// Returns the norm of x, or x if there is no norm.
fn norm(forward: &mut impl Forward, name: Option<String>, x: Value) -> Result<Value, ModelError> {
    let Some(name) = name else { return Ok(x) };
    let (kind, epsilon) = (forward.config().decoder.norm, forward.config().decoder.norm_epsilon);
    let weight = forward.weight(&format!("{name}.weight"))?;
    Ok(match kind {
        Norm::Rms => forward.graph().rms_norm(x, weight, epsilon),
        // In 16 bits, the sum would lose most of the weight: the family's norms are computed in 32.
        Norm::RmsPlusOne => {
            let element = forward.element();
            let graph = forward.graph();
            let (weight, x) = (graph.cast(weight, ElementType::F32), graph.cast(x, ElementType::F32));
            let weight = graph.shift(weight, 1.0);
            let normed = graph.rms_norm(x, weight, epsilon);
            graph.cast(normed, element)
        }
        Norm::Layer => {
            let bias = forward.weight(&format!("{name}.bias"))?;
            forward.graph().layer_norm(x, weight, bias, epsilon)
        }
        Norm::LayerNoBias => {
            let width = forward.config().hidden_size;
            let bias = constant(forward, "zeros", width, 0.0);
            forward.graph().layer_norm(x, weight, bias, epsilon)
        }
    })
}

/// Returns a linear layer, with its low-rank change if it has one.
fn linear(forward: &mut impl Forward, block: &Block, linear: Linear, x: Value) -> Result<Value, ModelError> {
    let Linear { name, bias } = linear;
    let inputs_first = forward.config().decoder.inputs_first;
    let mut y = forward.product(x, &format!("{}.{name}.weight", block.name), inputs_first)?;
    if bias {
        let bias = forward.weight(&format!("{}.{name}.bias", block.name))?;
        y = forward.graph().add(y, bias)?;
    }
    let target = LoraTarget { layer: block.layer, module: name.to_owned() };
    let Some((a, b)) = forward.low_rank(target)? else { return Ok(y) };
    let narrow = forward.graph().linear(x, a)?;
    let change = forward.graph().linear(narrow, b)?;
    forward.graph().add(y, change)
}

/// Returns the output of causal self-attention, before its output projection.
fn self_attention(forward: &mut impl Forward, block: &Block, x: Value) -> Result<Value, ModelError> {
    let ModelConfig { heads, kv_heads, head_dim, .. } = *forward.config();
    let [query, key, value] = match forward.config().decoder.attention {
        Attention::Apart { query, key, value } => [
            linear(forward, block, query, x)?,
            linear(forward, block, key, x)?,
            linear(forward, block, value, x)?,
        ],
        Attention::Joined(joined) => {
            let joined = linear(forward, block, joined, x)?;
            let keys = kv_heads * head_dim;
            three(forward.graph().split(joined, -1, &[heads * head_dim, keys, keys])?)?
        }
        Attention::ByHead(joined) => {
            let joined = linear(forward, block, joined, x)?;
            by_head(forward, joined)?
        }
    };
    let query = normed(forward, block, QUERY_NORM, query, heads)?;
    let key = normed(forward, block, KEY_NORM, key, kv_heads)?;
    forward.attention(block.layer, query, key, value)
}

/// Returns query, key and value, which alternate for each head: `[heads, 3, head_dim]`.
fn by_head(forward: &mut impl Forward, joined: Value) -> Result<[Value; 3], ModelError> {
    let ModelConfig { heads, head_dim, .. } = *forward.config();
    let by_head = shaped(forward, joined, &[heads, 3 * head_dim])?;
    let mut parts = Vec::with_capacity(3);
    for part in forward.graph().split_last(by_head, 3)? {
        parts.push(shaped(forward, part, &[heads * head_dim])?);
    }
    three(parts)
}

fn three(parts: Vec<Value>) -> Result<[Value; 3], ModelError> {
    parts.try_into().map_err(|_| {
        ModelError::invalid(crate::error::InvalidKind::Graph, "a projection does not have three parts")
    })
}

/// Returns queries or keys after their norm, if the family has one.
fn normed(
    forward: &mut impl Forward,
    block: &Block,
    name: &str,
    x: Value,
    heads: usize,
) -> Result<Value, ModelError> {
    let ModelConfig { head_dim, .. } = *forward.config();
    let name = format!("{}.{name}", block.name);
    match forward.config().decoder.query_key_norm {
        None => Ok(x),
        Some(QueryKeyNorm::Whole) => norm(forward, Some(name), x),
        Some(QueryKeyNorm::Head) => {
            let x = shaped(forward, x, &[heads, head_dim])?;
            let x = norm(forward, Some(name), x)?;
            shaped(forward, x, &[heads * head_dim])
        }
        Some(QueryKeyNorm::LayerByHead) => {
            let epsilon = forward.config().decoder.norm_epsilon;
            let x = shaped(forward, x, &[heads, head_dim])?;
            let ones = constant(forward, "ones", head_dim, 1.0);
            let zeros = constant(forward, "zeros", head_dim, 0.0);
            let x = forward.graph().layer_norm(x, ones, zeros, epsilon);
            let weight = forward.weight(&format!("{name}.weight"))?;
            let x = forward.graph().mul(x, weight)?;
            shaped(forward, x, &[heads * head_dim])
        }
    }
}

fn mlp(forward: &mut impl Forward, block: &Block, x: Value) -> Result<Value, ModelError> {
    match forward.config().decoder.mlp {
        Mlp::Gated { gate, up, down } => {
            let gate = linear(forward, block, gate, x)?;
            let up = linear(forward, block, up, x)?;
            gated(forward, block, [gate, up], down)
        }
        Mlp::GatedJoined { gate_up, down } => {
            let joined = linear(forward, block, gate_up, x)?;
            let inner = forward.config().intermediate_size;
            match forward.graph().split(joined, -1, &[inner, inner])?[..] {
                [gate, up] => gated(forward, block, [gate, up], down),
                _ => Ok(joined),
            }
        }
        Mlp::Plain { up, down } => {
            let wide = linear(forward, block, up, x)?;
            let active = activation(forward, wide);
            linear(forward, block, down, active)
        }
    }
}

fn gated(
    forward: &mut impl Forward,
    block: &Block,
    [gate, up]: [Value; 2],
    down: Linear,
) -> Result<Value, ModelError> {
    let gate = activation(forward, gate);
    let gated = forward.graph().mul(gate, up)?;
    linear(forward, block, down, gated)
}

fn activation(forward: &mut impl Forward, x: Value) -> Value {
    match forward.config().decoder.activation {
        Activation::Silu => forward.graph().silu(x),
        Activation::Gelu => forward.graph().gelu(x, false),
        Activation::GeluTanh => forward.graph().gelu(x, true),
    }
}

/// Returns x with other dimensions after those of the tokens.
fn shaped(forward: &mut impl Forward, x: Value, dims: &[usize]) -> Result<Value, ModelError> {
    let shape = forward.token_shape().into_iter().chain(dims.iter().copied().map(Dim::Fixed)).collect();
    forward.graph().reshape(x, shape)
}

/// Returns a constant vector of one number, in the element type of hidden states.
fn constant(forward: &mut impl Forward, name: &str, length: usize, number: f32) -> Value {
    let element = forward.element();
    let vector = forward.graph().constant_of(name, length, number);
    forward.graph().cast(vector, element)
}

fn scaled(forward: &mut impl Forward, x: Value, factor: f32) -> Value {
    if is_one(factor) { x } else { forward.graph().scale(x, factor) }
}

fn is_one(factor: f32) -> bool {
    factor.to_bits() == 1.0_f32.to_bits()
}
