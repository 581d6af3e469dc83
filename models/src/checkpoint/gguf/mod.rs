//! GGUF files: the header is parsed, and the weights are converted once into a cached safetensors file.
//!
//! The format is ggml's `docs/gguf.md`, versions 2 and 3, little-endian.

mod blocks;
mod convert;
mod families;
mod groups;
mod header;
mod metadata;
mod names;
mod packing;
mod special_tokens;
mod split;
mod splitting;
mod tokenizer;

use std::path::Path;

use dissent_domain::weight_form::WeightForm;
use serde_json::{Map, Value};

use super::fingerprint::{self, Fingerprint};
use super::packed;
use super::parts::Parts;
use super::reading::ReadingRules;
use super::weights::{StoredTensor, Weights};
use crate::error::ModelError;
use header::Header;
use names::{Destination, destination};
pub use split::files_of_model;
pub(super) use split::first_part;

#[cfg(test)]
mod real_tokenizers;
#[cfg(test)]
mod tests;

/// Opens a file. Its weights are packed for [`WeightForm::AsStored`], else dequantised. They are written into
/// the cache if they are not there.
pub(super) fn open(
    path: &Path,
    cache_dir: &Path,
    reading: ReadingRules,
    form: WeightForm,
) -> Result<Parts, ModelError> {
    let (header, mut parts, hash) = read(path, cache_dir, reading)?;
    let family = metadata::family(&header).map_err(|reason| ModelError::file(path, reason))?;
    let converted = convert::converted(path, &header, (family, &parts.config), form, &hash, cache_dir)?;
    parts.weights = packed::read(&converted)?;
    Ok(parts)
}

/// As [`open`], without dequantising: the weights have shapes, but no place.
pub(super) fn outline(path: &Path, cache_dir: &Path, reading: ReadingRules) -> Result<Parts, ModelError> {
    let (header, mut parts, _) = read(path, cache_dir, reading)?;
    let family = metadata::family(&header).map_err(|reason| ModelError::file(path, reason))?;
    for (name, tensor) in convert::outline(path, &header, (family, &parts.config))? {
        parts.weights.insert(name, tensor).map_err(|reason| ModelError::file(path, reason))?;
    }
    Ok(parts)
}

/// Describes a file without its weights, and lists its tensors as stored.
pub(super) fn describe(
    path: &Path,
    cache_dir: &Path,
    reading: ReadingRules,
) -> Result<(Parts, Vec<StoredTensor>), ModelError> {
    let (header, parts, _) = read(path, cache_dir, reading)?;
    let wrong = |reason: String| ModelError::file(path, reason);
    let family = metadata::family(&header).map_err(wrong)?;
    let mut inventory = Vec::new();
    for (name, info) in &header.tensors {
        let place = destination(name, family, &parts.config).map_err(wrong)?;
        if let Destination::Tensor { name, .. } = place {
            let elements = info.shape.iter().map(|dimension| *dimension as u64).product();
            inventory.push(StoredTensor { name, dtype: info.block_type.name(), elements });
        }
    }
    Ok((parts, inventory))
}

/// Returns the settings that a Hugging Face folder of this model would have in its `config.json`.
///
/// # Errors
/// [`ModelError::File`] if a `config.json` cannot express the rotary frequencies of the file.
pub(super) fn settings(path: &Path) -> Result<Map<String, Value>, ModelError> {
    let header = split::read(path)?;
    if header.tensors.contains_key(names::ROTARY_DIVISORS) {
        return Err(ModelError::file(
            path,
            "a Hugging Face configuration cannot express the rotary frequencies of this file: use the model's \
             Hugging Face folder",
        ));
    }
    let mut settings = metadata::settings(&header).map_err(|reason| ModelError::file(path, reason))?;
    // These depend on the weights that are written beside them.
    for key in ["num_hidden_layers", "tie_word_embeddings"] {
        settings.shift_remove(key);
    }
    Ok(settings)
}

/// Returns a model's header, its configuration and tokenizer without weights, and the BLAKE3 hash of its
/// file; of a split model, the hashes of all files.
fn read(path: &Path, cache_dir: &Path, reading: ReadingRules) -> Result<(Header, Parts, String), ModelError> {
    let wrong = |reason: String| ModelError::file(path, reason);
    let header = split::read(path)?;
    check_kind(&header).map_err(wrong)?;
    let mut config = metadata::config(path, &header)?;
    let tokenizer = tokenizer::build(&header, config.family, reading).map_err(wrong)?;
    let (tokenizer, special_tokens) = special_tokens::resolve(&header, &mut config, tokenizer);
    let hash = |file| fingerprint::of_file(file, cache_dir);
    let hashes = header.files.iter().map(|file| hash(file)).collect::<Result<Vec<_>, _>>()?;
    let mut fingerprint = Fingerprint::new();
    hashes.iter().for_each(|hash| fingerprint.add("gguf", hash));
    let parts = Parts { config, weights: Weights::default(), tokenizer, special_tokens, fingerprint };
    Ok((header, parts, hashes.join(" ")))
}

/// Checks that the file holds a model; llama.cpp keeps other things in GGUF files as well.
fn check_kind(header: &Header) -> Result<(), String> {
    match header.text("general.type") {
        None | Some("model") => Ok(()),
        Some("adapter") => Err(
            "a LoRA adapter in GGUF form, not a model: use the PEFT folder from which it was converted as the adapter, or merge \
             it with llama-export-lora"
                .to_owned(),
        ),
        Some(kind) => Err(format!("a GGUF file of type {kind:?}, not a model: use the model's own file")),
    }
}
