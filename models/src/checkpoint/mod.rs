//! Checkpoints: Hugging Face folders and GGUF files.
//!
//! Opening one reads its configuration and its tokenizer, and *locates* its weights. A checkpoint is
//! untrusted: headers, offsets, shapes and templates are checked before use.

mod cache_file;
pub mod config;
mod config_json;
pub mod decoder;
pub(crate) mod family;
pub(crate) mod files;
pub(crate) mod fingerprint;
mod folder;
pub(crate) mod gguf;
mod int8;
pub(crate) mod layout;
mod packed;
mod parts;
mod python_json;
mod reading;
mod roles;
mod rope;
mod safetensors;
pub(crate) mod score_head;
mod scored;
mod settings;
mod source;
mod special_tokens;
mod stand_in;
mod token_source;
pub mod tokenizer;
mod tokenizer_files;
mod tying;
pub mod weights;
pub mod write;

use std::path::{Path, PathBuf};

use dissent_domain::reward::RewardOutput;
use dissent_domain::weight_form::WeightForm;

use crate::error::{InvalidKind, ModelError};
use parts::{Description, Parts};
use source::{Source, locate};

pub(crate) use parts::Format;
pub(crate) use source::missing;

pub use config::ModelConfig;
pub use decoder::{Activation, Decoder};
pub use family::Family;
pub use gguf::files_of_model;
pub use reading::ReadingRules;
pub use rope::{Rope, RopeScaling};
pub(crate) use special_tokens::warn_if_endless;
pub use special_tokens::{SpecialToken, SpecialTokens};
pub use token_source::TokenSource;
pub use tokenizer::TextTokenizer;
pub use weights::{Dtype, TensorRef, Weights};

/// A model on disk: its configuration, the locations of its weights, and its tokenizer.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Architecture and sizes.
    pub config: ModelConfig,
    /// The location of each tensor, by its Hugging Face name.
    pub weights: Weights,
    /// Text to token ids and back, with the chat template.
    pub tokenizer: TextTokenizer,
    /// The special tokens, each with the place that names it.
    pub special_tokens: SpecialTokens,
    /// BLAKE3, in hex, of the weights, the configuration and the tokenizer. A model cut to its first layers
    /// has another fingerprint than the whole model.
    pub fingerprint: String,
    /// The path that was opened, as given.
    pub source: PathBuf,
    /// The rules by which the files were read.
    pub reading: ReadingRules,
    /// The outputs of a reward head with several outputs that make up the reward. [`Checkpoint::open`] sets
    /// none.
    pub reward_output: Option<RewardOutput>,
}

/// How to open a checkpoint.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The number of first layers to keep, with the final norm; `None` keeps all layers.
    pub layers: Option<u32>,
    /// Dissent's cache folder, for dequantised weights and fingerprints (see [`crate::cache`]).
    pub cache_dir: PathBuf,
    /// The rules by which the files are read.
    pub reading: ReadingRules,
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a `.gguf` file, or a folder with exactly one `.gguf` file.
    ///
    /// # Errors
    /// [`ModelError::File`] if anything is missing or malformed; [`ModelError::Invalid`] if the model has
    /// fewer layers than requested.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, ModelError> {
        Self::open_as(path, options, WeightForm::F32)
    }

    /// As [`Checkpoint::open`], with the weights in a form for generation. The fingerprint is the same in
    /// every form.
    ///
    /// Packed weights are made once, in the cache. A GGUF file is not dequantised for
    /// [`WeightForm::AsStored`]. Tensors that cannot be packed are 32-bit floats.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and [`ModelError::Invalid`] if no tensor can be packed.
    pub fn open_as(path: &Path, options: &OpenOptions, form: WeightForm) -> Result<Self, ModelError> {
        let (cache_dir, reading) = (&options.cache_dir, options.reading);
        let parts = match (locate(path)?, form) {
            (Source::Folder, WeightForm::AsStored) => {
                return Err(not_quantised(path, "a Hugging Face folder has no quantised weights"));
            }
            (Source::Folder, WeightForm::F32 | WeightForm::Int8) => folder::open(path, cache_dir, reading)?,
            (Source::Gguf(file), form) => gguf::open(&file, cache_dir, reading, form)?,
        };
        let mut checkpoint = Self::from_parts(parts, path, options)?;
        match form {
            WeightForm::F32 => return Ok(checkpoint),
            WeightForm::AsStored => {}
            WeightForm::Int8 => {
                let Self { config, weights, fingerprint, .. } = &checkpoint;
                checkpoint.weights = int8::quantised(config, weights, (path, fingerprint), cache_dir)?;
            }
        }
        let (packed, floats) = packed::count(&checkpoint.weights, &checkpoint.config);
        if packed == 0 {
            return Err(not_quantised(path, "no matrix of the model can be packed"));
        }
        tracing::info!(path = %path.display(), weights = %form, packed, floats, "opened packed weights");
        Ok(checkpoint)
    }

    /// As [`Checkpoint::open`], but dequantises nothing: the weights of a GGUF file have shapes only, and no
    /// session can be opened. Graphs can be built, and their memory predicted: see [`crate::memory`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn outline(path: &Path, options: &OpenOptions) -> Result<Self, ModelError> {
        let parts = match locate(path)? {
            Source::Folder => folder::open(path, &options.cache_dir, options.reading)?,
            Source::Gguf(file) => gguf::outline(&file, &options.cache_dir, options.reading)?,
        };
        Self::from_parts(parts, path, options)
    }

    /// Returns the checkpoint that was read from `source`, cut to its first layers and checked.
    fn from_parts(mut parts: Parts, source: &Path, options: &OpenOptions) -> Result<Self, ModelError> {
        if let Some(layers) = options.layers {
            parts.keep_layers(layers)?;
        }
        if options.reading == ReadingRules::V1 {
            parts.keep_head_of_classifier();
        }
        parts.check_shapes(options.reading).map_err(|reason| ModelError::file(source, reason))?;
        let (tokens, rows) = (parts.tokenizer.vocabulary_size(), parts.config.vocab_size);
        if tokens > rows {
            tracing::warn!(
                tokens,
                rows,
                "accepting a tokenizer with more tokens than the model has embeddings"
            );
        }
        Ok(Self {
            config: parts.config,
            weights: parts.weights,
            tokenizer: parts.tokenizer,
            special_tokens: parts.special_tokens,
            fingerprint: parts.fingerprint.finish(),
            source: source.to_owned(),
            reading: options.reading,
            reward_output: None,
        })
    }

    /// Describes the checkpoint that [`Checkpoint::open`] would open, without dequantising its weights.
    pub(crate) fn describe(path: &Path, options: &OpenOptions) -> Result<Description, ModelError> {
        let (format, parts, inventory) = match locate(path)? {
            Source::Folder => {
                let parts = folder::open(path, &options.cache_dir, options.reading)?;
                let inventory = parts.weights.iter().map(|(name, tensor)| tensor.stored(name)).collect();
                (Format::HuggingFace, parts, inventory)
            }
            Source::Gguf(file) => {
                let (parts, inventory) = gguf::describe(&file, &options.cache_dir, options.reading)?;
                (Format::Gguf, parts, inventory)
            }
        };
        parts.describe(path, format, inventory, options.layers)
    }
}

/// Returns the error of a checkpoint without weights in blocks, with the way out.
fn not_quantised(path: &Path, reason: &str) -> ModelError {
    ModelError::invalid(
        InvalidKind::Setting,
        format!("{}: {reason}: use weights int8 or f32", path.display()),
    )
}
