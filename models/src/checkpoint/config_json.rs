//! `config.json` and `generation_config.json` of Hugging Face folders, in the formats of transformers 4 and
//! 5.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::{LAYERS_MAX, ModelConfig};
use super::family::{self, Family, Reader};
use super::files::parse_json;
use super::settings::Settings;
use crate::error::ModelError;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawGeneration {
    eos_token_id: Option<Value>,
}

/// Parses the two files. `num_labels` stays `None`: it follows from the shape of the score head.
pub(super) fn parse(
    path: &Path,
    config: &[u8],
    generation: Option<(&Path, &[u8])>,
) -> Result<ModelConfig, ModelError> {
    let settings = Settings::new(path, parse_json(path, config)?);
    let mut config = model_config(settings)?;
    if let Some((path, bytes)) = generation {
        let raw: RawGeneration = parse_json(path, bytes)?;
        let listed = ids(raw.eos_token_id.as_ref())
            .ok_or_else(|| ModelError::file(path, "eos_token_id is not a token id or a list of them"))?;
        // As in transformers: the generation file overrides the configuration.
        if !listed.is_empty() {
            config.eos_token_ids = listed;
        }
    }
    Ok(config)
}

/// Returns the keys of a `config.json`; of a multimodal model, those of its language model.
pub(super) fn text_keys(path: &Path, config: &[u8]) -> Result<Map<String, Value>, ModelError> {
    let settings = text_settings(Settings::new(path, parse_json(path, config)?))?;
    let text_only = settings.text("model_type")? == Some(MULTIMODAL);
    let mut keys = settings.into_keys();
    if text_only {
        keys.insert("model_type".to_owned(), "gemma3_text".into());
    }
    Ok(keys)
}

/// Returns the configuration that the settings of `config.json` describe.
pub(super) fn model_config(settings: Settings) -> Result<ModelConfig, ModelError> {
    if let Some(quantization) = settings.get("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        return Err(settings.error(format!(
            "weights quantised by {method} are not supported; use the unquantised model or a GGUF file"
        )));
    }
    let settings = text_settings(settings)?;
    let family = family(&settings)?;
    let settings = settings.of_family(family.aliases, family.sizes);
    let size = |key: &str| settings.size(key).and_then(|value| settings.need(key, value));
    let (heads, hidden_size) = (size("num_attention_heads")?, size("hidden_size")?);
    let grouped = |key: &str| if family.grouped { settings.size(key) } else { Ok(None) };
    let reader = Reader {
        settings: &settings,
        family,
        hidden: hidden_size,
        head_dim: grouped("head_dim")?.unwrap_or(hidden_size / heads.max(1)),
        layers: layers(&settings)?,
        context: settings.size("max_position_embeddings")?.unwrap_or(2048),
    };
    let decoder = (family.decoder)(&reader)?;
    let context_length =
        decoder.ropes.iter().filter_map(|rope| rope.context).fold(reader.context, usize::min);
    let config = ModelConfig {
        family,
        hidden_size,
        intermediate_size: settings.size("intermediate_size")?.unwrap_or(hidden_size.saturating_mul(4)),
        layers: reader.layers,
        heads,
        kv_heads: grouped("num_key_value_heads")?.unwrap_or(heads),
        head_dim: reader.head_dim,
        vocab_size: size("vocab_size")?,
        context_length,
        tied_embeddings: settings.flag("tie_word_embeddings")?.unwrap_or(family.tied),
        decoder,
        bos_token_id: token_ids(&settings, "bos_token_id")?.first().copied(),
        eos_token_ids: token_ids(&settings, "eos_token_id")?,
        pad_token_id: padding(&settings, family),
        class: settings.texts("architectures")?.and_then(|names| names.first().map(|&name| name.to_owned())),
        num_labels: None,
    };
    config.validate().map_err(|reason| settings.error(reason))?;
    Ok(config)
}

#[cfg(test)]
impl ModelConfig {
    /// Returns the configuration of a `config.json`.
    pub(crate) fn from_json(text: &str) -> Self {
        parse(Path::new("config.json"), text.as_bytes(), None).expect("a configuration")
    }
}

/// The `model_type` of a multimodal model.
const MULTIMODAL: &str = "gemma3";

/// Returns the padding token. As in transformers, a negative id is no token of any text, and an absent key
/// has the default of the family's class.
fn padding(settings: &Settings, family: &Family) -> Option<u32> {
    match settings.keys().get("pad_token_id") {
        Some(value) => value.as_u64().and_then(|id| u32::try_from(id).ok()),
        None => family.padding,
    }
}

/// Returns the number of layers, which is checked before a description of each is built.
fn layers(settings: &Settings) -> Result<usize, ModelError> {
    let layers = settings.need("num_hidden_layers", settings.size("num_hidden_layers")?)?;
    if (1..=LAYERS_MAX).contains(&layers) {
        return Ok(layers);
    }
    Err(settings.error(format!("the number of layers {layers} is out of range: use 1 to {LAYERS_MAX}")))
}

/// Returns the settings of the language model. A multimodal model has them in a group.
fn text_settings(settings: Settings) -> Result<Settings, ModelError> {
    if settings.text("model_type")? != Some(MULTIMODAL) {
        return Ok(settings);
    }
    let mut text = settings.group("text_config")?.ok_or_else(|| settings.error("text_config is missing"))?;
    for key in ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"] {
        if let Some(value) = settings.get(key) {
            text.set(key, value.clone());
        }
    }
    text.set("model_type", MULTIMODAL.into());
    Ok(text)
}

fn family(settings: &Settings) -> Result<&'static Family, ModelError> {
    let class = settings.texts("architectures")?.and_then(|classes| classes.first().copied());
    let found = match settings.text("model_type")? {
        Some(model_type) => (family::by_model_type(model_type), model_type),
        None => (class.and_then(family::by_class), class.unwrap_or("(missing)")),
    };
    let (family, name) = found;
    family.ok_or_else(|| {
        settings.error(format!("model_type {name:?} is not supported: use one of {}", family::known()))
    })
}

/// Returns one id, a list of ids, or nothing for null.
fn token_ids(settings: &Settings, key: &str) -> Result<Vec<u32>, ModelError> {
    let value = settings.get(key);
    ids(value)
        .ok_or_else(|| settings.error(format!("{key} is not a token id: {}", value.unwrap_or(&Value::Null))))
}

fn ids(value: Option<&Value>) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut ids = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(values)) => values.iter().map(id).collect::<Option<_>>()?,
        Some(value) => vec![id(value)?],
    };
    ids.dedup();
    Some(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::decoder::{Activation, Mlp, Parallel};

    const LLAMA: &str = r#""model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 512"#;
    const NEOX: &str = r#""model_type": "gpt_neox", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 512"#;

    fn config(base: &str, rest: &str) -> Result<ModelConfig, ModelError> {
        parse(Path::new("config.json"), format!("{{{base}{rest}}}").as_bytes(), None)
    }

    fn refusal(base: &str, rest: &str) -> String {
        config(base, rest).expect_err("the value must be refused").to_string()
    }

    #[test]
    fn old_and_new_formats_of_the_rotary_embedding_agree() {
        let old = config(NEOX, r#", "rotary_emb_base": 5000, "rotary_pct": 0.5"#).expect("old");
        let new = r#", "rope_parameters": {"rope_type": "default", "rope_theta": 5000, "partial_rotary_factor": 0.5}"#;
        assert_eq!(old, config(NEOX, new).expect("new"));
        assert_eq!(old.decoder.ropes[0].rotary_dims, 8);
        let old = r#", "rope_theta": 7.5, "rope_scaling": {"type": "linear", "factor": 2.0}"#;
        let new = r#", "rope_parameters": {"rope_type": "linear", "rope_theta": 7.5, "factor": 2.0}"#;
        assert_eq!(config(LLAMA, old).expect("old"), config(LLAMA, new).expect("new"));
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let llama = config(LLAMA, "").expect("llama");
        let decoder = &llama.decoder;
        assert_eq!((decoder.norm_epsilon, decoder.ropes[0].theta, llama.head_dim), (1e-6, 10_000.0, 16));
        assert!(!decoder.output.bias && !llama.tied_embeddings);
        assert!(matches!(decoder.mlp, Mlp::Gated { down, .. } if !down.bias));
        let neox = config(NEOX, "").expect("neox");
        let decoder = &neox.decoder;
        assert_eq!((decoder.norm_epsilon, decoder.ropes[0].rotary_dims, neox.kv_heads), (1e-5, 4, 4));
        assert_eq!((decoder.output.bias, decoder.parallel), (true, Some(Parallel::OwnNorms)));
        assert_eq!(decoder.activation, Activation::Gelu);
    }

    #[test]
    fn the_generation_file_replaces_the_stop_tokens() {
        let base = format!("{{{LLAMA}, \"eos_token_id\": 7}}");
        let path = Path::new("g.json");
        let with = |generation: &str| {
            parse(Path::new("c.json"), base.as_bytes(), Some((path, generation.as_bytes())))
                .expect("config")
                .eos_token_ids
        };
        assert_eq!(with(r#"{"eos_token_id": [2, 3]}"#), [2, 3]);
        assert_eq!(with(r#"{"eos_token_id": null}"#), [7]);
        assert_eq!(with("{}"), [7]);
    }

    #[test]
    fn unsupported_models_are_refused_by_name() {
        assert!(refusal(r#""model_type": "mamba""#, "").contains("mamba"));
        assert!(
            refusal(LLAMA, r#", "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}"#)
                .contains("dynamic")
        );
        assert!(refusal(LLAMA, r#", "quantization_config": {"quant_method": "gptq"}"#).contains("gptq"));
        assert!(refusal(LLAMA, r#", "hidden_act": "relu6""#).contains("relu6"));
        assert!(refusal(LLAMA, r#", "eos_token_id": -1"#).contains("eos_token_id"));
        assert!(refusal(r#""model_type": "llama""#, "").contains("num_attention_heads"));
        assert!(refusal("", "\"hidden_size\": \"wide\"").contains("config.json"));
    }

    #[test]
    fn inconsistent_sizes_are_refused() {
        for rest in [
            r#", "num_attention_heads": 0"#,
            r#", "num_key_value_heads": 3"#,
            r#", "head_dim": 15"#,
            r#", "hidden_size": 9223372036854775807"#,
            r#", "num_hidden_layers": 0"#,
            r#", "rms_norm_eps": -1"#,
            r#", "rope_theta": 0"#,
        ] {
            let key = rest.split('"').nth(1).expect("a key");
            let base = LLAMA
                .split(',')
                .filter(|part| !part.contains(&format!("\"{key}\"")))
                .collect::<Vec<_>>()
                .join(",");
            assert!(config(&base, rest).is_err(), "{rest}");
        }
    }
}
