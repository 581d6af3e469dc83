//! Maps llama.cpp's tensor names to the Hugging Face names, and restores the order of rows.

use super::families::GgufFamily;
use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::decoder::{Attention, Linear, Mlp};
use crate::checkpoint::layout::{KEY_NORM, QUERY_NORM};

/// The destination of a tensor of a GGUF file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// A tensor of the model.
    Tensor { name: String, change: Change },
    /// Data that belongs to the configuration, not a weight.
    Configuration,
}

/// How a tensor of a GGUF file differs from the one in a Hugging Face folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Other order of rows, or none.
    Rows(RowOrder),
    /// Rows are columns.
    Transposed,
    /// Every element is one greater.
    PlusOne,
}

/// The row order of a tensor in a GGUF file, as llama.cpp's converter writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    Same,
    /// The two halves of each head's rows are interleaved: llama.cpp's rotary embedding pairs neighbours,
    /// Hugging Face pairs halves.
    InterleavedHalves {
        head_dim: usize,
    },
    /// All queries, all keys, all values. GPT-NeoX stores the three of each head together.
    QueriesKeysValues {
        heads: usize,
        head_dim: usize,
    },
}

/// The divisors of the rotary frequencies; llama.cpp stores them as a tensor.
pub(super) const ROTARY_DIVISORS: &str = "rope_freqs.weight";
/// The divisors of `LongRoPE`, for long and for short sequences.
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";
pub(super) const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// Returns the destination of a tensor. An error if the family has no such tensor.
pub(super) fn destination(
    name: &str,
    family: &GgufFamily,
    config: &ModelConfig,
) -> Result<Destination, String> {
    if [ROTARY_DIVISORS, LONG_FACTORS, SHORT_FACTORS].contains(&name) {
        return Ok(Destination::Configuration);
    }
    let found = outside_layers(name, config).or_else(|| in_layer(name, family, config));
    let (name, change) =
        found.ok_or_else(|| format!("tensor {name} does not belong to this architecture"))?;
    let norm = family.norms_plus_one && name.ends_with("norm.weight");
    Ok(Destination::Tensor { name, change: if norm { Change::PlusOne } else { change } })
}

const SAME: Change = Change::Rows(RowOrder::Same);

fn outside_layers(name: &str, config: &ModelConfig) -> Option<(String, Change)> {
    let name = match name {
        "token_embd.weight" => config.embedding(),
        "position_embd.weight" => config.positions()?,
        "output_norm.weight" => format!("{}.weight", config.final_norm()),
        "output_norm.bias" => format!("{}.bias", config.final_norm()),
        "output.weight" => config.head().to_owned(),
        _ => return None,
    };
    Some((name, SAME))
}

fn in_layer(name: &str, family: &GgufFamily, config: &ModelConfig) -> Option<(String, Change)> {
    let (layer, part, suffix) = layer_part(name)?;
    let (norms, attention) = (config.decoder.norms, config.decoder.attention);
    let norm = match part {
        "attn_norm" => norms.before_attention,
        "post_attention_norm" => norms.after_attention,
        "ffn_norm" => norms.before_mlp,
        "post_ffw_norm" => norms.after_mlp,
        "attn_q_norm" => config.decoder.query_key_norm.map(|_| QUERY_NORM),
        "attn_k_norm" => config.decoder.query_key_norm.map(|_| KEY_NORM),
        _ => None,
    };
    let (part, change) = match (norm, part, attention) {
        (Some(norm), _, _) => (norm, SAME),
        (None, "attn_q", Attention::Apart { query, .. }) => (query.name, interleaved(family, config)),
        (None, "attn_k", Attention::Apart { key, .. }) => (key.name, interleaved(family, config)),
        (None, "attn_v", Attention::Apart { value, .. }) => (value.name, SAME),
        (None, "attn_qkv", Attention::Joined(joined)) => (joined.name, stored(config, suffix)),
        (None, "attn_qkv", Attention::ByHead(joined)) => {
            let rows = RowOrder::QueriesKeysValues { heads: config.heads, head_dim: config.head_dim };
            (joined.name, Change::Rows(rows))
        }
        (None, "attn_output", _) => (config.decoder.output.name, stored(config, suffix)),
        (None, part, _) => (mlp(part, config.decoder.mlp)?.name, stored(config, suffix)),
    };
    Some((format!("{}.{part}.{suffix}", config.layer_name(layer)), change))
}

/// Splits `blk.3.attn_q.weight` into (3, `attn_q`, `weight`).
fn layer_part(name: &str) -> Option<(usize, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, suffix) = rest.split_once('.')?;
    matches!(suffix, "weight" | "bias").then_some(())?;
    Some((layer.parse().ok()?, part, suffix))
}

fn mlp(part: &str, mlp: Mlp) -> Option<Linear> {
    match (part, mlp) {
        ("ffn_gate", Mlp::Gated { gate, .. }) => Some(gate),
        ("ffn_up", Mlp::Gated { up, .. } | Mlp::GatedJoined { gate_up: up, .. } | Mlp::Plain { up, .. }) => {
            Some(up)
        }
        ("ffn_down", Mlp::Gated { down, .. } | Mlp::GatedJoined { down, .. } | Mlp::Plain { down, .. }) => {
            Some(down)
        }
        _ => None,
    }
}

fn interleaved(family: &GgufFamily, config: &ModelConfig) -> Change {
    Change::Rows(if family.interleaved_rows {
        RowOrder::InterleavedHalves { head_dim: config.head_dim }
    } else {
        RowOrder::Same
    })
}

/// GGUF files store all projections as `[outputs, inputs]`.
fn stored(config: &ModelConfig, suffix: &str) -> Change {
    if config.decoder.inputs_first && suffix == "weight" { Change::Transposed } else { SAME }
}

impl RowOrder {
    /// Returns the number of rows that are restored at a time. A tensor must have a multiple of it.
    pub(super) fn piece_rows(self) -> Option<usize> {
        match self {
            Self::Same => None,
            Self::InterleavedHalves { head_dim } | Self::QueriesKeysValues { head_dim, .. } => Some(head_dim),
        }
    }

    /// Returns the first row, in the file, of the `piece`-th piece of the restored tensor.
    pub(super) fn source_row(self, piece: usize) -> usize {
        match self {
            Self::Same => 0,
            Self::InterleavedHalves { head_dim } => piece * head_dim,
            Self::QueriesKeysValues { heads, head_dim } => (piece % 3 * heads + piece / 3) * head_dim,
        }
    }

    /// Returns the row of the file's piece that becomes row `row` of the restored piece.
    pub(super) fn within(self, row: usize) -> usize {
        match self {
            Self::Same | Self::QueriesKeysValues { .. } => row,
            Self::InterleavedHalves { head_dim } => {
                let half = head_dim / 2;
                if row < half { 2 * row } else { 2 * (row - half) + 1 }
            }
        }
    }
}
