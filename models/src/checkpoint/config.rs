//! A model's configuration: family, sizes, structure, special token ids.

use super::decoder::{Attention, Decoder};
use super::family::Family;

/// A checkpoint's configuration. Sizes are counts of elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub family: &'static Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of transformer layers in use (after any cut to the first K).
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// The longest sequence that the model supports, in tokens.
    pub context_length: usize,
    /// Whether the output head is the token embedding.
    pub tied_embeddings: bool,
    /// The structure of the layers.
    pub decoder: Decoder,
    /// Beginning-of-sequence token, if the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a completion; chat models often have several.
    pub eos_token_ids: Vec<u32>,
    /// The padding token. A sequence classifier does not read its score there.
    pub pad_token_id: Option<u32>,
    /// The class of transformers that the configuration names, such as `LlamaForSequenceClassification`.
    pub class: Option<String>,
    /// Outputs of the sequence-classification head, if there is one.
    pub num_labels: Option<usize>,
}

/// The largest accepted width, vocabulary or head count. Products of two of them stay far below overflow.
const SIZE_MAX: usize = 1 << 24;
/// The highest accepted number of layers.
pub(super) const LAYERS_MAX: usize = 4096;
/// The longest accepted context, in tokens.
const CONTEXT_MAX: usize = 1 << 31;

impl ModelConfig {
    /// Checks that the sizes are valid, alone and together. The error names the invalid size.
    pub(crate) fn validate(&self) -> Result<(), String> {
        for (name, value, most) in [
            ("hidden size", self.hidden_size, SIZE_MAX),
            ("intermediate size", self.intermediate_size, SIZE_MAX),
            ("number of layers", self.layers, LAYERS_MAX),
            ("number of attention heads", self.heads, SIZE_MAX),
            ("number of key-value heads", self.kv_heads, SIZE_MAX),
            ("head dimension", self.head_dim, SIZE_MAX),
            ("vocabulary size", self.vocab_size, SIZE_MAX),
            ("context length", self.context_length, CONTEXT_MAX),
        ] {
            if value == 0 || value > most {
                return Err(format!("the {name} {value} is out of range: use 1 to {most}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} attention heads cannot share {} key-value heads",
                self.heads, self.kv_heads
            ));
        }
        if matches!(self.decoder.attention, Attention::ByHead(_))
            && self.heads * self.head_dim != self.hidden_size
        {
            return Err(format!("{} heads do not divide a hidden size of {}", self.heads, self.hidden_size));
        }
        self.decoder.validate(self.head_dim)
    }
}
