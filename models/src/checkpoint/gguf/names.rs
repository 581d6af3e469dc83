//! Maps llama.cpp's tensor names to the Hugging Face names, and restores the order of rows.

use crate::checkpoint::config::{Architecture, ModelConfig};

/// The destination of a tensor of a GGUF file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// A tensor of the model.
    Tensor { name: String, rows: RowOrder },
    /// Data that belongs to the configuration, not a weight.
    Configuration,
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

/// Returns the destination of a tensor. An error if the architecture has no such tensor.
pub(super) fn destination(name: &str, config: &ModelConfig) -> Result<Destination, String> {
    if name == ROTARY_DIVISORS {
        return Ok(Destination::Configuration);
    }
    let found = match config.architecture {
        Architecture::Llama => llama(name, config),
        Architecture::GptNeoX => neox(name, config),
    };
    let (name, rows) = found.ok_or_else(|| format!("tensor {name} does not belong to this architecture"))?;
    Ok(Destination::Tensor { name, rows })
}

/// Splits `blk.3.attn_q.weight` into (3, `attn_q`, `weight`).
fn layer_part(name: &str) -> Option<(usize, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, suffix) = rest.split_once('.')?;
    matches!(suffix, "weight" | "bias").then_some(())?;
    Some((layer.parse().ok()?, part, suffix))
}

fn llama(name: &str, config: &ModelConfig) -> Option<(String, RowOrder)> {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some((whole.to_owned(), RowOrder::Same));
    }
    let (layer, part, suffix) = layer_part(name)?;
    let (part, rows) = match part {
        "attn_norm" => ("input_layernorm", RowOrder::Same),
        "attn_q" => ("self_attn.q_proj", RowOrder::InterleavedHalves { head_dim: config.head_dim }),
        "attn_k" => ("self_attn.k_proj", RowOrder::InterleavedHalves { head_dim: config.head_dim }),
        "attn_v" => ("self_attn.v_proj", RowOrder::Same),
        "attn_output" => ("self_attn.o_proj", RowOrder::Same),
        "ffn_norm" => ("post_attention_layernorm", RowOrder::Same),
        "ffn_gate" => ("mlp.gate_proj", RowOrder::Same),
        "ffn_up" => ("mlp.up_proj", RowOrder::Same),
        "ffn_down" => ("mlp.down_proj", RowOrder::Same),
        _ => return None,
    };
    Some((format!("model.layers.{layer}.{part}.{suffix}"), rows))
}

fn neox(name: &str, config: &ModelConfig) -> Option<(String, RowOrder)> {
    let whole = match name {
        "token_embd.weight" => Some("gpt_neox.embed_in.weight"),
        "output_norm.weight" => Some("gpt_neox.final_layer_norm.weight"),
        "output_norm.bias" => Some("gpt_neox.final_layer_norm.bias"),
        "output.weight" => Some("embed_out.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some((whole.to_owned(), RowOrder::Same));
    }
    let (layer, part, suffix) = layer_part(name)?;
    let split = RowOrder::QueriesKeysValues { heads: config.heads, head_dim: config.head_dim };
    let (part, rows) = match part {
        "attn_norm" => ("input_layernorm", RowOrder::Same),
        "attn_qkv" => ("attention.query_key_value", split),
        "attn_output" => ("attention.dense", RowOrder::Same),
        "ffn_norm" => ("post_attention_layernorm", RowOrder::Same),
        "ffn_up" => ("mlp.dense_h_to_4h", RowOrder::Same),
        "ffn_down" => ("mlp.dense_4h_to_h", RowOrder::Same),
        _ => return None,
    };
    Some((format!("gpt_neox.layers.{layer}.{part}.{suffix}"), rows))
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
