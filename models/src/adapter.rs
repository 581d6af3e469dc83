//! PEFT LoRA adapters: low-rank changes of a model's projections, and the score head of a reward model.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::ModelConfig;
use crate::error::ModelError;

/// What an adapter was trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterTask {
    /// Predicting the next token.
    CausalLm,
    /// Scoring a whole text (reward models).
    SeqCls,
}

/// The change of one projection: W + scaling · B · A.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraPair {
    /// A, `[rank, inputs]`, row-major.
    pub a: Vec<f32>,
    /// B, `[outputs, rank]`, row-major.
    pub b: Vec<f32>,
    /// Rows of A and columns of B.
    pub rank: usize,
    /// Columns of A.
    pub inputs: usize,
    /// Rows of B.
    pub outputs: usize,
    /// The factor in front of B · A.
    pub scaling: f32,
}

/// A sequence-classification head.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreHead {
    /// `[labels, hidden]`, row-major.
    pub weight: Vec<f32>,
    /// Rows.
    pub labels: usize,
    /// Columns.
    pub hidden: usize,
}

/// Which projection of which layer a [`LoraPair`] changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoraTarget {
    /// Layer index, from 0.
    pub layer: usize,
    /// The module's name inside its layer, such as `self_attn.q_proj` or `attention.query_key_value`.
    pub module: String,
}

/// A LoRA adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    /// The rank of the configuration.
    pub r: usize,
    /// The alpha of the configuration.
    pub alpha: f32,
    /// alpha / r, or alpha / √r for rank-stabilised LoRA.
    pub scaling: f32,
    /// The pairs; each carries its own scaling.
    pub layers: BTreeMap<LoraTarget, LoraPair>,
    /// The score head of a reward model.
    pub score: Option<ScoreHead>,
    /// What it was trained for.
    pub task: AdapterTask,
    /// BLAKE3, in hex, of the configuration and the weights.
    pub fingerprint: String,
}

impl LoraAdapter {
    /// Opens a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// [`ModelError::File`] for anything missing or malformed, [`ModelError::Invalid`] for a kind of adapter that is not
    /// supported.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        Err(ModelError::File { path: dir.to_owned(), reason: "not an adapter".to_owned() })
    }

    /// Whether the adapter fits a model: layers, modules and shapes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] naming the first tensor that does not fit.
    pub fn check(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let _ = config;
        Ok(())
    }
}
