//! A checkpoint as read, before it is cut to its first layers and checked.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::ModelConfig;
use super::fingerprint::Fingerprint;
use super::tokenizer::TextTokenizer;
use super::weights::{StoredTensor, Weights};
use super::{layout, tying};
use crate::error::{InvalidKind, ModelError};

/// A checkpoint before cutting and checking.
pub(super) struct Parts {
    pub(super) config: ModelConfig,
    pub(super) weights: Weights,
    pub(super) tokenizer: TextTokenizer,
    pub(super) fingerprint: Fingerprint,
    /// The class of transformers that `config.json` names.
    pub(super) class: Option<String>,
}

/// The kinds of checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    HuggingFace,
    Gguf,
}

/// A description of a checkpoint, for [`crate::inspect`].
pub(crate) struct Description {
    pub format: Format,
    pub config: ModelConfig,
    pub tokenizer: TextTokenizer,
    pub fingerprint: String,
    /// Number of weights. A head that shares the embeddings is not counted.
    pub parameters: u64,
    /// Tensors of each element type.
    pub dtypes: BTreeMap<String, usize>,
}

impl Parts {
    pub(super) fn describe(
        mut self,
        path: &Path,
        format: Format,
        inventory: Vec<StoredTensor>,
        layers: Option<u32>,
    ) -> Result<Description, ModelError> {
        if let Some(layers) = layers {
            self.keep_layers(layers)?;
        }
        if format == Format::HuggingFace {
            self.check_shapes().map_err(|reason| ModelError::file(path, reason))?;
        }
        let config = self.config;
        let embedding = layout::embedding(config.architecture);
        // A file with the head alone has the embedding under the head's name.
        let tied = config.tied_embeddings && inventory.iter().any(|stored| stored.name == embedding);
        let (mut parameters, mut dtypes) = (0, BTreeMap::new());
        for stored in inventory {
            let cut = layout::layer_of(config.architecture, &stored.name)
                .is_some_and(|layer| layer >= config.layers);
            let repeated = tied && stored.name == layout::head(config.architecture);
            if !cut && !repeated {
                parameters += stored.elements;
                *dtypes.entry(stored.dtype.to_owned()).or_insert(0) += 1;
            }
        }
        let (tokenizer, fingerprint) = (self.tokenizer, self.fingerprint.finish());
        Ok(Description { format, config, tokenizer, fingerprint, parameters, dtypes })
    }

    pub(super) fn keep_layers(&mut self, layers: u32) -> Result<(), ModelError> {
        let there = self.config.layers;
        let kept = usize::try_from(layers).unwrap_or(usize::MAX);
        if kept == 0 || kept > there {
            return Err(ModelError::invalid(
                InvalidKind::Setting,
                format!(
                    "cannot keep the first {layers} layers of a model that has {there}: use 1 to {there}"
                ),
            ));
        }
        if kept < there {
            self.config.layers = kept;
            let architecture = self.config.architecture;
            self.weights.retain(|name| layout::layer_of(architecture, name).is_none_or(|layer| layer < kept));
            self.fingerprint.add("layers", &layers.to_string());
        }
        Ok(())
    }

    /// Checks the weights against the configuration, and takes from them the number of labels, and whether
    /// the output head is the embedding. Returns whether a stored head outweighed the configuration.
    pub(super) fn check_shapes(&mut self) -> Result<bool, String> {
        let config = &mut self.config;
        tying::find_embedding(config, &mut self.weights)?;
        for (name, shape) in layout::required(config) {
            check_shape(&self.weights, &name, &shape)?;
        }
        if self.weights.contains(layout::SCORE_HEAD) {
            let found = &self.weights.get(layout::SCORE_HEAD).map_err(|error| error.to_string())?.shape;
            let &[labels, hidden] = found.as_slice() else {
                return Err(format!("{} has shape {found:?}, not [labels, hidden]", layout::SCORE_HEAD));
            };
            if labels == 0 || hidden != config.hidden_size {
                return Err(format!(
                    "{} has shape {found:?} in a model of width {}",
                    layout::SCORE_HEAD,
                    config.hidden_size
                ));
            }
            config.num_labels = Some(labels);
        }
        let head = layout::head(config.architecture);
        if self.weights.contains(head) {
            check_shape(&self.weights, head, &[config.vocab_size, config.hidden_size])?;
        }
        tying::keep_own_head(config, &self.weights)
    }
}

fn check_shape(weights: &Weights, name: &str, shape: &[usize]) -> Result<(), String> {
    let found = &weights.get(name).map_err(|error| error.to_string())?.shape;
    if found == shape {
        return Ok(());
    }
    Err(format!("tensor {name} has shape {found:?} but the configuration requires {shape:?}"))
}
