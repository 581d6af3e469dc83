//! LoRA adapters in memory (arXiv 2106.09685).

use std::collections::BTreeMap;

use crate::checkpoint::ModelConfig;
use crate::checkpoint::layout::projections;
use crate::error::{InvalidKind, ModelError};

/// The task that an adapter was trained for.
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

/// The projection and the layer that a [`LoraPair`] changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoraTarget {
    /// Layer index, from 0.
    pub layer: usize,
    /// The module's name inside its layer, such as `self_attn.q_proj` or `attention.query_key_value`.
    pub module: String,
}

/// A LoRA adapter.
///
/// # Examples
/// ```
/// use std::collections::BTreeMap;
///
/// use dissent_models::adapter::{AdapterTask, LoraAdapter, LoraPair, LoraTarget};
///
/// let target = LoraTarget { layer: 0, module: "self_attn.q_proj".to_owned() };
/// let pair = LoraPair {
///     a: vec![1.0, 0.0, 0.0, 1.0], // [rank 1, inputs 4]
///     b: vec![0.5, -0.5],          // [outputs 2, rank 1]
///     rank: 1,
///     inputs: 4,
///     outputs: 2,
///     scaling: 8.0, // alpha / rank
/// };
/// let layers = BTreeMap::from([(target, pair)]);
/// let adapter = LoraAdapter::new(1, 8.0, layers, None, AdapterTask::CausalLm, None)?;
///
/// // One piece of bytes holds the files of a PEFT folder, and has the same fingerprint.
/// let artifact = adapter.to_artifact()?;
/// assert_eq!(LoraAdapter::from_artifact(&artifact)?, adapter);
/// # Ok::<(), dissent_models::ModelError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    /// The rank of the configuration. A `rank_pattern` may give single pairs another rank.
    pub r: usize,
    /// The alpha of the configuration.
    pub alpha: f32,
    /// alpha / r, or alpha / √r for rank-stabilised LoRA.
    pub scaling: f32,
    /// The pairs. Each has its own scaling.
    pub layers: BTreeMap<LoraTarget, LoraPair>,
    /// The score head of a reward model.
    pub score: Option<ScoreHead>,
    /// The task that it was trained for.
    pub task: AdapterTask,
    /// The name of the base model in the adapter's configuration.
    pub base_model: Option<String>,
    /// BLAKE3, in hex, of the configuration and the weights.
    pub fingerprint: String,
}

impl LoraAdapter {
    /// Checks that the adapter fits a model: layers, modules and shapes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] that names the first tensor that does not fit.
    pub fn check(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let misfit = |what: String| {
            Err(ModelError::invalid(
                InvalidKind::ShapeMismatch,
                format!("the adapter does not fit the model: {what}"),
            ))
        };
        let known: BTreeMap<_, _> = projections(config).into_iter().collect();
        for (target, pair) in &self.layers {
            let LoraTarget { layer, module } = target;
            if *layer >= config.layers {
                return misfit(format!(
                    "layer {layer} does not exist in a model of {} layers",
                    config.layers
                ));
            }
            let Some(projection) = known.get(module.as_str()) else {
                return misfit(format!("layer {layer} has no projection {module}"));
            };
            if (pair.outputs, pair.inputs) != (projection.outputs, projection.inputs) {
                return misfit(format!(
                    "layers.{layer}.{module} has shape [{}, {}], the model has [{}, {}]",
                    pair.outputs, pair.inputs, projection.outputs, projection.inputs
                ));
            }
        }
        match &self.score {
            Some(score) if score.hidden != config.hidden_size => misfit(format!(
                "the score head has width {}, the model has width {}",
                score.hidden, config.hidden_size
            )),
            _ => Ok(()),
        }
    }
}
