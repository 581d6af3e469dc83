//! A model's settings from GGUF metadata, as the keys of a `config.json`.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::families::{GgufFamily, by_architecture};
use super::header::{Header, Value};
use super::names::{LONG_FACTORS, ROTARY_DIVISORS, SHORT_FACTORS};
use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::config_json::model_config;
use crate::checkpoint::rope::RopeScaling;
use crate::checkpoint::settings::Settings;
use crate::error::ModelError;

/// Reads the configuration. The rotary divisors, if there are any, come from the tensor data.
pub(super) fn config(path: &Path, header: &Header) -> Result<ModelConfig, ModelError> {
    let wrong = |reason: String| ModelError::file(path, reason);
    let settings = settings(header).map_err(wrong)?;
    let mut config = model_config(Settings::new(path, settings))?;
    // The end-of-turn and end-of-message tokens have no key of their own in a configuration.
    config.eos_token_ids = stop_tokens(header);
    if let (Some(rope), Some(divisors)) =
        (config.decoder.ropes.first_mut(), rotary_divisors(header).map_err(wrong)?)
    {
        if divisors.len() != rope.rotary_dims / 2 {
            return Err(wrong(format!(
                "tensor {ROTARY_DIVISORS} has shape [{}], not [{}]",
                divisors.len(),
                rope.rotary_dims / 2
            )));
        }
        rope.scaling = Some(RopeScaling::Divisors { divisors, magnitude: 1.0 });
    }
    Ok(config)
}

/// Returns the settings that a Hugging Face folder of this model would have in its `config.json`.
pub(super) fn settings(header: &Header) -> Result<Map<String, Json>, String> {
    let family = family(header)?;
    let keys = Keys { header, family: family.architecture };
    if keys.integer("expert_count")?.is_some_and(|count| count > 0) {
        return Err("mixtures of experts are not supported".to_owned());
    }
    let vocab_size = match header.tensors.get("token_embd.weight") {
        Some(embedding) => embedding.rows(),
        None => return Err("tensor token_embd.weight is missing".to_owned()),
    };
    let (heads, hidden) = (keys.size("attention.head_count")?, keys.size("embedding_length")?);
    let epsilon =
        keys.float(family.epsilon.0)?.ok_or_else(|| format!("{} is missing", keys.name(family.epsilon.0)))?;
    let mut settings = Map::new();
    let mut set = |key: &str, value: Json| settings.insert(key.to_owned(), value);
    set("model_type", family.model_type.into());
    set("hidden_size", hidden.into());
    set("intermediate_size", keys.size("feed_forward_length")?.into());
    set("num_hidden_layers", keys.size("block_count")?.into());
    set("num_attention_heads", heads.into());
    set("max_position_embeddings", keys.size("context_length")?.into());
    set("vocab_size", vocab_size.into());
    set("initializer_range", json!(0.02));
    set(family.epsilon.1, shortest(epsilon));
    set("tie_word_embeddings", (!header.tensors.contains_key("output.weight")).into());
    if family.grouped {
        set("num_key_value_heads", keys.size_or("attention.head_count_kv", heads)?.into());
        set("head_dim", keys.head_dim()?.into());
    }
    if let Some(activation) = family.activation {
        set("hidden_act", activation.into());
    }
    for (tensor, key) in family.present {
        settings.insert((*key).to_owned(), header.tensors.contains_key(*tensor).into());
    }
    for (from, to) in family.numbers {
        // A window of 0 tokens stands for none.
        if let Some(value) = keys.value(from)?.filter(|value| *value != 0) {
            settings.insert((*to).to_owned(), value);
        }
    }
    if let Some((key, pattern)) = window_pattern(&keys)? {
        settings.insert(key.to_owned(), pattern);
    }
    if let Some(scalar) = query_scalar(family, &keys)? {
        settings.insert("query_pre_attn_scalar".to_owned(), scalar);
    }
    rope(&keys, family, &mut settings)?;
    settings.insert("bos_token_id".to_owned(), json!(token_id(header, "bos")));
    settings.insert(
        "eos_token_id".to_owned(),
        match stop_tokens(header).as_slice() {
            [] => Json::Null,
            [id] => (*id).into(),
            ids => ids.into(),
        },
    );
    // Converters fill in the end token where a model has no padding token. Reward models over such a file
    // were trained to be read at the end token.
    if let Some(padding) = token_id(header, "padding").filter(|id| !stop_tokens(header).contains(id)) {
        settings.insert("pad_token_id".to_owned(), padding.into());
    }
    Ok(in_order(settings))
}

/// The order of keys in a written `config.json`; other keys follow.
const ORDER: [&str; 23] = [
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "initializer_range",
    "hidden_act",
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "rope_scaling",
    "model_type",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "layer_norm_eps",
    "mlp_bias",
    "use_parallel_residual",
    "rope_theta",
    "rotary_emb_base",
    "rotary_pct",
    "partial_rotary_factor",
];

fn in_order(mut settings: Map<String, Json>) -> Map<String, Json> {
    let first = ORDER.iter().filter_map(|key| settings.shift_remove_entry(*key));
    let mut ordered: Map<String, Json> = first.collect();
    ordered.extend(settings);
    ordered
}

/// Returns the family that the file names.
pub(super) fn family(header: &Header) -> Result<&'static GgufFamily, String> {
    let architecture = header.text("general.architecture").ok_or("general.architecture is missing")?;
    let windowed = header.metadata.contains_key(&format!("{architecture}.attention.sliding_window"));
    by_architecture(architecture, windowed)
}

/// Returns the end-of-sequence, end-of-turn and end-of-message tokens that the file names.
fn stop_tokens(header: &Header) -> Vec<u32> {
    let mut ids = Vec::new();
    for id in ["eos", "eot", "eom"].into_iter().filter_map(|name| token_id(header, name)) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// Returns the id of a special token in the metadata.
pub(super) fn token_id(header: &Header, name: &str) -> Option<u32> {
    u32::try_from(header.integer(&format!("tokenizer.ggml.{name}_token_id"))?).ok()
}

/// Returns the pattern of windows, if the file has one: the type of each layer, or the interval of the layers
/// without a window.
fn window_pattern(keys: &Keys<'_>) -> Result<Option<(&'static str, Json)>, String> {
    let key = "attention.sliding_window_pattern";
    match keys.get(key) {
        None => Ok(None),
        Some(Value::Integer(every)) => Ok(Some(("sliding_window_pattern", (*every).into()))),
        Some(Value::Integers(marks)) => {
            let layer = |&mark: &i64| if mark == 0 { "full_attention" } else { "sliding_attention" };
            Ok(Some(("layer_types", marks.iter().map(layer).collect())))
        }
        Some(_) => {
            Err(format!("{} is neither a number nor a list of flags, one for each layer", keys.name(key)))
        }
    }
}

/// Gemma 2 and 3 scale queries by the width of a head, but their largest models by hidden size / heads. Files
/// do not say so; llama.cpp knows these models by their number of layers.
fn query_scalar(family: &GgufFamily, keys: &Keys<'_>) -> Result<Option<Json>, String> {
    let Some(largest) = family.layers_of_largest else { return Ok(None) };
    Ok(Some(if keys.size("block_count")? == largest {
        (keys.size("embedding_length")? / keys.size("attention.head_count")?.max(1)).into()
    } else {
        keys.head_dim()?.into()
    }))
}

fn rope(keys: &Keys<'_>, family: &GgufFamily, settings: &mut Map<String, Json>) -> Result<(), String> {
    let (theta_key, share_key) = family.rope_keys;
    if family.model_type != "gpt2" {
        let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
        settings.insert(theta_key.to_owned(), theta.into());
    }
    if let Some(theta) = keys.float("rope.freq_base_swa")? {
        settings.insert("rope_local_base_freq".to_owned(), theta.into());
    }
    let head_dim = keys.head_dim()?;
    let rotated = keys.size_or("rope.dimension_count", head_dim)?;
    if family.partial || rotated != head_dim {
        settings.insert(share_key.to_owned(), share(rotated, head_dim)?.into());
    }
    let number = |key: &str| keys.float(key).map(|value| json!(value));
    let kind = keys.header.text(&keys.name("rope.scaling.type")).unwrap_or("none");
    let long = factors(keys.header, LONG_FACTORS)?;
    let scaling = match (kind, long) {
        ("none" | "longrope", Some(long)) => {
            let original = keys.size("rope.scaling.original_context_length")?;
            settings.insert("original_max_position_embeddings".to_owned(), original.into());
            let short = factors(keys.header, SHORT_FACTORS)?;
            let factor = number("rope.scaling.attn_factor")?;
            json!({"rope_type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": factor})
        }
        ("none", None) => Json::Null,
        ("linear", None) => json!({"rope_type": "linear", "factor": number("rope.scaling.factor")?}),
        ("yarn", None) => {
            let original = match keys.get("rope.scaling.original_context_length") {
                Some(_) => json!(keys.size("rope.scaling.original_context_length")?),
                None => Json::Null,
            };
            json!({
                "rope_type": "yarn", "factor": number("rope.scaling.factor")?,
                "original_max_position_embeddings": original,
                "beta_fast": number("rope.scaling.yarn_beta_fast")?, "beta_slow": number("rope.scaling.yarn_beta_slow")?,
            })
        }
        (other, _) => {
            return Err(format!(
                "rope scaling {other:?} is not supported: use none, linear, yarn or longrope"
            ));
        }
    };
    settings.insert("rope_scaling".to_owned(), scaling);
    Ok(())
}

/// Returns the share of a head that is rotated, so that its product with the head's width is this number of
/// dimensions.
fn share(rotated: usize, head_dim: usize) -> Result<f64, String> {
    if rotated == 0 || rotated > head_dim {
        return Err(format!(
            "rotary dimensions {rotated} are out of range: use an even number from 2 to {head_dim}"
        ));
    }
    let share = rotated as f64 / head_dim as f64;
    // The quotient may be rounded below the number that it stands for.
    Ok(if share * (head_dim as f64) < rotated as f64 { share.next_up() } else { share })
}

/// Llama 3's scaling: llama.cpp's converter stores it as one divisor per frequency.
fn rotary_divisors(header: &Header) -> Result<Option<Vec<f64>>, String> {
    factors(header, ROTARY_DIVISORS)
}

/// Returns the numbers of a vector in the file, which must be positive.
fn factors(header: &Header, name: &str) -> Result<Option<Vec<f64>>, String> {
    let Some(info) = header.tensors.get(name) else { return Ok(None) };
    let bytes = header.read_tensor(info).map_err(|error| error.to_string())?;
    let mut numbers = Vec::new();
    info.block_type.dequantise(&bytes, &mut numbers);
    if numbers.iter().any(|number| !(number.is_finite() && *number > 0.0)) {
        return Err(format!("tensor {name} holds a value that is not positive"));
    }
    Ok(Some(numbers.into_iter().map(f64::from).collect()))
}

/// Returns a 32-bit float of the file in its shortest decimal form.
fn shortest(number: f64) -> Json {
    #[expect(clippy::cast_possible_truncation, reason = "the file holds 32-bit floats")]
    let stored = number as f32;
    stored.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

/// The metadata of one family: keys with its name as prefix.
struct Keys<'a> {
    header: &'a Header,
    family: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.family)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(&self.name(key))
    }

    fn integer(&self, key: &str) -> Result<Option<i64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => Ok(Some(*value)),
            Some(_) => Err(format!("{} is not one whole number", self.name(key))),
        }
    }

    fn float(&self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(format!("{} is not a number", self.name(key))),
        }
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, String> {
        if self.get(key).is_none() { Ok(default) } else { self.size(key) }
    }

    /// Returns the width of a head.
    fn head_dim(&self) -> Result<usize, String> {
        let (hidden, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        self.size_or("attention.key_length", hidden.checked_div(heads).unwrap_or(0))
    }

    fn size(&self, key: &str) -> Result<usize, String> {
        let value = self.integer(key)?.ok_or_else(|| format!("{} is missing", self.name(key)))?;
        usize::try_from(value).map_err(|_| format!("{} is negative", self.name(key)))
    }

    /// Returns a number or a truth value.
    fn value(&self, key: &str) -> Result<Option<Json>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => Ok(Some((*value).into())),
            Some(Value::Float(value)) => Ok(Some(shortest(*value))),
            Some(Value::Bool(value)) => Ok(Some((*value).into())),
            Some(_) => Err(format!("{} is not one number", self.name(key))),
        }
    }
}
