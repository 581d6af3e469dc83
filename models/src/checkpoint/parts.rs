//! A checkpoint as read, before it is cut to its first layers and checked.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::ModelConfig;
use super::fingerprint::Fingerprint;
use super::reading::ReadingRules;
use super::score_head::is_head_tensor;
use super::special_tokens::SpecialTokens;
use super::tokenizer::TextTokenizer;
use super::weights::{StoredTensor, Weights};
use super::{layout, tying};
use crate::error::{InvalidKind, ModelError};

/// A checkpoint before cutting and checking.
pub(super) struct Parts {
    pub(super) config: ModelConfig,
    pub(super) weights: Weights,
    pub(super) tokenizer: TextTokenizer,
    pub(super) special_tokens: SpecialTokens,
    pub(super) fingerprint: Fingerprint,
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
    pub special_tokens: SpecialTokens,
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
            self.check_shapes(ReadingRules::default()).map_err(|reason| ModelError::file(path, reason))?;
        }
        let config = self.config;
        let embedding = config.embedding();
        // A file with the head alone has the embedding under the head's name.
        let tied = config.tied_embeddings && inventory.iter().any(|stored| stored.name == embedding);
        let (mut parameters, mut dtypes) = (0, BTreeMap::new());
        for stored in inventory {
            let cut = config.layer_of(&stored.name).is_some_and(|(layer, _)| layer >= config.layers);
            let repeated = tied && stored.name == config.head();
            if !cut && !repeated {
                parameters += stored.elements;
                *dtypes.entry(stored.dtype.to_owned()).or_insert(0) += 1;
            }
        }
        let (tokenizer, special_tokens) = (self.tokenizer, self.special_tokens);
        let fingerprint = self.fingerprint.finish();
        Ok(Description { format, config, tokenizer, special_tokens, fingerprint, parameters, dtypes })
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
            self.config.decoder.layers.truncate(kept);
            let config = &self.config;
            self.weights.retain(|name| config.layer_of(name).is_none_or(|(layer, _)| layer < kept));
            self.fingerprint.add("layers", &layers.to_string());
        }
        Ok(())
    }

    /// Removes the tensors of reward heads that version 0.1 did not read.
    pub(super) fn keep_head_of_classifier(&mut self) {
        self.weights.retain(|name| name == layout::SCORE_HEAD || !is_head_tensor(name));
    }

    /// Checks the weights against the configuration, and takes from them the number of labels, and whether
    /// the output head is the embedding.
    pub(super) fn check_shapes(&mut self, reading: ReadingRules) -> Result<(), String> {
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
        let head = config.head();
        if self.weights.contains(head) {
            check_shape(&self.weights, head, &[config.vocab_size, config.hidden_size])?;
        }
        match reading {
            ReadingRules::V1 => Ok(()),
            ReadingRules::V2 => tying::keep_own_head(config, &self.weights),
        }
    }
}

fn check_shape(weights: &Weights, name: &str, shape: &[usize]) -> Result<(), String> {
    // The shapes were checked when the matrix was packed.
    if weights.only_packed(name).is_some() {
        return Ok(());
    }
    let found = &weights.get(name).map_err(|error| error.to_string())?.shape;
    if found == shape {
        return Ok(());
    }
    Err(format!("tensor {name} has shape {found:?} but the configuration requires {shape:?}"))
}
