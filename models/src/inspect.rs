//! Descriptions of models and adapters, the output of `dissent model inspect`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::adapter::{AdapterTask, LoraAdapter};
use crate::checkpoint::{Checkpoint, Format, OpenOptions, SpecialTokens};
use crate::error::ModelError;

/// A description of the model or adapter at a path.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelSummary {
    /// A model.
    Model(Box<CheckpointSummary>),
    /// A LoRA adapter.
    Adapter(AdapterSummary),
}

/// A description of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckpointSummary {
    /// The path, as given.
    pub path: PathBuf,
    /// `huggingface` or `gguf`.
    pub format: &'static str,
    /// The family, by its `model_type`: `llama`, `qwen3`, …
    pub architecture: &'static str,
    /// Number of weights; tied embeddings are counted once.
    pub parameters: u64,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Tokens of the tokenizer.
    pub tokenizer_vocabulary: usize,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Whether the output head is the token embedding.
    pub tied_embeddings: bool,
    /// Whether there is a chat template.
    pub chat_template: bool,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a completion.
    pub eos_token_ids: Vec<u32>,
    /// The special tokens, each with the places that name it.
    pub special_tokens: SpecialTokens,
    /// Outputs of the score head, if there is one.
    pub num_labels: Option<usize>,
    /// Tensors of each element type, as stored.
    pub dtypes: BTreeMap<String, usize>,
    /// BLAKE3 fingerprint in hex.
    pub fingerprint: String,
}

/// A description of an adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterSummary {
    /// The path, as given.
    pub path: PathBuf,
    /// `causal_lm` or `seq_cls`.
    pub task: &'static str,
    /// Rank.
    pub r: usize,
    /// Alpha.
    pub alpha: f32,
    /// The factor in front of B · A.
    pub scaling: f32,
    /// The highest changed layer plus one. A model must have at least this many layers.
    pub layers: usize,
    /// The changed projections.
    pub modules: Vec<String>,
    /// Number of weights, including the score head.
    pub parameters: u64,
    /// Outputs of the score head, if there is one.
    pub num_labels: Option<usize>,
    /// The base model that the adapter names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// BLAKE3 fingerprint in hex.
    pub fingerprint: String,
}

/// Describes the checkpoint or adapter at `path`. The weights of a GGUF file are not dequantised.
///
/// # Errors
/// As [`Checkpoint::open`] and [`LoraAdapter::open`].
pub fn inspect(path: &Path, options: &OpenOptions) -> Result<ModelSummary, ModelError> {
    if path.join("adapter_config.json").exists() && !path.join("config.json").exists() {
        return Ok(ModelSummary::Adapter(adapter(path, &LoraAdapter::open(path)?)));
    }
    let description = Checkpoint::describe(path, options)?;
    let config = description.config;
    Ok(ModelSummary::Model(Box::new(CheckpointSummary {
        path: path.to_owned(),
        format: match description.format {
            Format::HuggingFace => "huggingface",
            Format::Gguf => "gguf",
        },
        architecture: config.family.model_type,
        parameters: description.parameters,
        layers: config.layers,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        vocab_size: config.vocab_size,
        tokenizer_vocabulary: description.tokenizer.vocabulary_size(),
        context_length: config.context_length,
        tied_embeddings: config.tied_embeddings,
        chat_template: description.tokenizer.chat_template().is_some(),
        bos_token_id: config.bos_token_id,
        eos_token_ids: config.eos_token_ids,
        special_tokens: description.special_tokens,
        num_labels: config.num_labels,
        dtypes: description.dtypes,
        fingerprint: description.fingerprint,
    })))
}

fn adapter(path: &Path, adapter: &LoraAdapter) -> AdapterSummary {
    let pairs = adapter.layers.values().map(|pair| pair.a.len() + pair.b.len()).sum::<usize>();
    let head = adapter.score.as_ref().map_or(0, |score| score.weight.len());
    let mut modules: Vec<_> = adapter.layers.keys().map(|target| target.module.clone()).collect();
    modules.sort();
    modules.dedup();
    AdapterSummary {
        path: path.to_owned(),
        task: match adapter.task {
            AdapterTask::CausalLm => "causal_lm",
            AdapterTask::SeqCls => "seq_cls",
        },
        r: adapter.r,
        alpha: adapter.alpha,
        scaling: adapter.scaling,
        layers: adapter.layers.keys().map(|target| target.layer + 1).max().unwrap_or(0),
        modules,
        parameters: (pairs + head) as u64,
        num_labels: adapter.score.as_ref().map(|score| score.labels),
        base_model: adapter.base_model.clone(),
        fingerprint: adapter.fingerprint.clone(),
    }
}
