//! Hugging Face folders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::config::ModelConfig;
use super::config_json;
use super::files::{CONFIG_BYTES_MAX, TOKENIZER_BYTES_MAX, parse_json, read, read_optional};
use super::fingerprint::{self, Fingerprint};
use super::parts::Parts;
use super::reading::ReadingRules;
use super::safetensors::{Located, locate};
use super::score_head::is_head_tensor;
use super::special_tokens::{ConfiguredIds, SpecialTokens};
use super::tokenizer::TextTokenizer;
use super::tokenizer_files::{TokenizerFiles, reads_older_files};
use super::weights::Weights;
use crate::error::ModelError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The largest shard index that is read, in bytes.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// Reads the configuration and the tokenizer of a folder, and locates its weights.
pub(super) fn open(folder: &Path, cache_dir: &Path, reading: ReadingRules) -> Result<Parts, ModelError> {
    let mut fingerprint = Fingerprint::new();
    let (mut config, ids) = open_config(folder, &mut fingerprint)?;
    let (tokenizer, special_tokens) = open_tokenizer(folder, &config, ids, reading, &mut fingerprint)?;
    if reading >= ReadingRules::V2 {
        config.bos_token_id = special_tokens.bos.as_ref().and_then(|token| token.id);
        config.eos_token_ids = special_tokens.stop_ids();
    }
    let shards = shards(folder)?;
    let mut weights = Weights::default();
    for (shard, expected) in &shards {
        let path = folder.join(shard);
        add_shard(&mut weights, &path, expected.as_ref(), &config)?;
        fingerprint.add(&shard.to_string_lossy(), &fingerprint::of_file(&path, cache_dir)?);
    }
    Ok(Parts { config, weights, tokenizer, special_tokens, fingerprint })
}

fn open_config(
    folder: &Path,
    fingerprint: &mut Fingerprint,
) -> Result<(ModelConfig, ConfiguredIds), ModelError> {
    let path = folder.join("config.json");
    let bytes = read(&path, CONFIG_BYTES_MAX)?;
    fingerprint.add_bytes("config.json", &bytes);
    let generation_path = folder.join("generation_config.json");
    let generation = read_optional(&generation_path, CONFIG_BYTES_MAX)?;
    if let Some(bytes) = &generation {
        fingerprint.add_bytes("generation_config.json", bytes);
    }
    let generation = generation.as_ref().map(|bytes| (generation_path.as_path(), bytes.as_slice()));
    let config = config_json::parse(&path, &bytes, generation)?;
    Ok((config, ConfiguredIds::read(&path, &bytes, generation)?))
}

fn open_tokenizer(
    folder: &Path,
    config: &ModelConfig,
    ids: ConfiguredIds,
    reading: ReadingRules,
    fingerprint: &mut Fingerprint,
) -> Result<(TextTokenizer, SpecialTokens), ModelError> {
    let mut optional = |name: &str| -> Result<Option<Vec<u8>>, ModelError> {
        let bytes = read_optional(&folder.join(name), CONFIG_BYTES_MAX)?;
        if let Some(bytes) = &bytes {
            fingerprint.add_bytes(name, bytes);
        }
        Ok(bytes)
    };
    let config_file = optional("tokenizer_config.json")?;
    let chat_template = optional("chat_template.jinja")?;
    let (mut tokens_map, mut added_tokens, mut further_templates) = (None, None, Vec::new());
    if reading >= ReadingRules::V2 {
        if reads_older_files(config_file.as_deref()) {
            tokens_map = optional("special_tokens_map.json")?;
            added_tokens = optional("added_tokens.json")?;
        }
        for (name, file) in further_template_files(folder)? {
            if let Some(bytes) = optional(&file)? {
                further_templates.push((name, bytes));
            }
        }
    }
    let path = folder.join("tokenizer.json");
    let Some(tokenizer) = read_optional(&path, TOKENIZER_BYTES_MAX)? else {
        return Err(ModelError::file(
            &path,
            "no such file; load the tokenizer with transformers' AutoTokenizer and save_pretrained to make it",
        ));
    };
    fingerprint.add_bytes("tokenizer.json", &tokenizer);
    let files = TokenizerFiles {
        folder,
        model_type: &ids.model_type,
        tokenizer,
        config: config_file,
        tokens_map,
        added_tokens,
        chat_template,
        further_templates,
    };
    if reading == ReadingRules::V1 {
        let tokenizer = files.open_as_first_version(config)?;
        let special_tokens = SpecialTokens::of_first_version(config, &tokenizer);
        return Ok((tokenizer, special_tokens));
    }
    let tokenizer = files.open()?;
    let special_tokens = SpecialTokens::resolve(ids, config.vocab_size, &tokenizer);
    let end = special_tokens.end.as_ref().and_then(|token| token.text.clone());
    Ok((tokenizer.with_end(end), special_tokens))
}

/// The highest number of chat templates beside the default one.
const TEMPLATES_MAX: usize = 16;

/// Lists the folder of further chat templates: name and path of each, in the order of names.
fn further_template_files(folder: &Path) -> Result<Vec<(String, String)>, ModelError> {
    const FOLDER: &str = "additional_chat_templates";
    let path = folder.join(FOLDER);
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in path.read_dir().map_err(|error| ModelError::file(&path, error))? {
        let name = entry.map_err(|error| ModelError::file(&path, error))?.file_name();
        if let Some(template) = name.to_str().and_then(|name| name.strip_suffix(".jinja")) {
            files.push((template.to_owned(), format!("{FOLDER}/{template}.jinja")));
        }
    }
    if files.len() > TEMPLATES_MAX {
        return Err(ModelError::file(
            &path,
            format!("{} templates, the limit is {TEMPLATES_MAX}", files.len()),
        ));
    }
    files.sort();
    Ok(files)
}

/// Returns the files that hold the weights. For a sharded model, each with the tensors that the index lists
/// for it.
fn shards(folder: &Path) -> Result<BTreeMap<PathBuf, Option<BTreeSet<String>>>, ModelError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, PathBuf>,
    }
    if folder.join(SINGLE).exists() {
        return Ok(BTreeMap::from([(PathBuf::from(SINGLE), None)]));
    }
    let path = folder.join(INDEX);
    let Some(bytes) = read_optional(&path, INDEX_BYTES_MAX)? else {
        let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
        let hint = if pickled.iter().any(|name| folder.join(name).exists()) {
            "; pytorch_model.bin is not read: load it with transformers and save_pretrained to convert it"
        } else {
            ""
        };
        return Err(ModelError::file(folder, format!("neither {SINGLE} nor {INDEX} exists{hint}")));
    };
    let index: Index = parse_json(&path, &bytes)?;
    let mut shards: BTreeMap<PathBuf, Option<BTreeSet<String>>> = BTreeMap::new();
    for (tensor, file) in index.weight_map {
        let mut components = file.components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(ModelError::file(
                &path,
                format!("tensor {tensor} is in {}, which is not a file of this folder", file.display()),
            ));
        }
        shards.entry(file).or_default().get_or_insert_default().insert(tensor);
    }
    if shards.is_empty() {
        return Err(ModelError::file(&path, "the weight_map is empty"));
    }
    Ok(shards)
}

fn add_shard(
    weights: &mut Weights,
    path: &Path,
    expected: Option<&BTreeSet<String>>,
    config: &ModelConfig,
) -> Result<(), ModelError> {
    let mut found = BTreeSet::new();
    for (name, located) in locate(path)? {
        if expected.is_some_and(|expected| !expected.contains(&name)) {
            continue;
        }
        found.insert(name.clone());
        let Some(full) = full_name(config, &name) else { continue };
        match located {
            Located::Weights(tensor) => {
                weights.insert(full, tensor).map_err(|reason| ModelError::file(path, reason))?
            }
            Located::Bytes(_) => weights.insert_unusable(full, "U8".to_owned()),
            Located::Unusable(dtype) => weights.insert_unusable(full, dtype),
        }
    }
    match expected.and_then(|expected| expected.difference(&found).next()) {
        Some(missing) => Err(ModelError::file(
            path,
            format!("the index lists {missing} for this file, but the file does not have it"),
        )),
        None => Ok(()),
    }
}

/// Returns the full name of a tensor; `None` for the other parts of a multimodal model.
///
/// A model that was saved without its head lacks the prefix. A multimodal model has another prefix.
fn full_name(config: &ModelConfig, name: &str) -> Option<String> {
    if OTHER_PARTS.iter().any(|part| name.starts_with(part)) {
        return None;
    }
    let name = TEXT_PARTS.iter().find_map(|part| name.strip_prefix(part)).unwrap_or(name);
    let prefix = config.family.names.prefix;
    let whole = name.starts_with(prefix) || name == config.head() || is_head_tensor(name);
    Some(if whole { name.to_owned() } else { format!("{prefix}{name}") })
}

/// Prefixes of the language model in a multimodal model: `model.` follows or is missing.
const TEXT_PARTS: [&str; 2] = ["model.language_model.", "language_model."];
/// Prefixes of tensors that a language model does not have.
const OTHER_PARTS: [&str; 4] =
    ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];
