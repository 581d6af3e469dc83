//! `config.json` and `generation_config.json` of Hugging Face folders, in the formats of transformers 4 and
//! 5.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::config::{Activation, Architecture, ModelConfig, Rope, RopeScaling};
use super::files::parse_json;
use crate::error::ModelError;

/// The keys of `config.json` that are read. Unknown keys are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawConfig {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    rms_norm_eps: Option<f64>,
    layer_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    rope_theta: Option<f64>,
    rotary_emb_base: Option<f64>,
    rotary_pct: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    original_max_position_embeddings: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_parallel_residual: Option<bool>,
    bos_token_id: Option<Value>,
    eos_token_id: Option<Value>,
    pad_token_id: Option<i64>,
    quantization_config: Option<Value>,
}

/// `rope_parameters`, or the older `rope_scaling`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct RawRope {
    rope_type: Option<String>,
    r#type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

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
    let raw: RawConfig = parse_json(path, config)?;
    let mut eos_token_ids = token_ids(path, "eos_token_id", raw.eos_token_id.as_ref())?;
    if let Some((path, bytes)) = generation {
        let raw: RawGeneration = parse_json(path, bytes)?;
        let listed = token_ids(path, "eos_token_id", raw.eos_token_id.as_ref())?;
        // As in transformers: the generation file overrides the configuration.
        if !listed.is_empty() {
            eos_token_ids = listed;
        }
    }
    let config = raw.resolve(path, eos_token_ids)?;
    config.validate().map_err(|reason| ModelError::file(path, reason))?;
    Ok(config)
}

impl RawConfig {
    fn resolve(self, path: &Path, eos_token_ids: Vec<u32>) -> Result<ModelConfig, ModelError> {
        let architecture = self.architecture(path)?;
        if let Some(quantization) = &self.quantization_config {
            let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
            return Err(ModelError::file(
                path,
                format!(
                    "weights quantised by {method} are not supported; use the unquantised model or a GGUF file"
                ),
            ));
        }
        let neox = architecture == Architecture::GptNeoX;
        let heads = size(path, "num_attention_heads", self.num_attention_heads)?;
        let hidden_size = size(path, "hidden_size", self.hidden_size)?;
        let head_dim = match self.head_dim.filter(|_| !neox) {
            Some(_) => size(path, "head_dim", self.head_dim)?,
            None => hidden_size / heads.max(1),
        };
        let kv_heads = match self.num_key_value_heads.filter(|_| !neox) {
            Some(_) => size(path, "num_key_value_heads", self.num_key_value_heads)?,
            None => heads,
        };
        let norm_eps =
            if neox { self.layer_norm_eps.unwrap_or(1e-5) } else { self.rms_norm_eps.unwrap_or(1e-6) };
        let rope = self.rope(path, architecture, head_dim)?;
        let activation = self.activation(path, if neox { "gelu" } else { "silu" })?;
        Ok(ModelConfig {
            architecture,
            hidden_size,
            intermediate_size: size(path, "intermediate_size", self.intermediate_size)?,
            layers: size(path, "num_hidden_layers", self.num_hidden_layers)?,
            heads,
            kv_heads,
            head_dim,
            vocab_size: size(path, "vocab_size", self.vocab_size)?,
            context_length: size(
                path,
                "max_position_embeddings",
                self.max_position_embeddings.or(Some(2048)),
            )?,
            norm_eps: narrow(norm_eps),
            rope,
            tied_embeddings: self.tie_word_embeddings.unwrap_or(false),
            attention_bias: self.attention_bias.unwrap_or(neox),
            // The MLP projections of GPT-NeoX always have biases.
            mlp_bias: neox || self.mlp_bias.unwrap_or(false),
            parallel_residual: neox && self.use_parallel_residual.unwrap_or(true),
            activation,
            bos_token_id: token_ids(path, "bos_token_id", self.bos_token_id.as_ref())?.first().copied(),
            eos_token_ids,
            // As in transformers, a negative id is no token of any text.
            pad_token_id: self.pad_token_id.and_then(|id| u32::try_from(id).ok()),
            class: self.architectures.and_then(|names| names.into_iter().next()),
            num_labels: None,
        })
    }

    fn architecture(&self, path: &Path) -> Result<Architecture, ModelError> {
        let class = self.architectures.as_deref().and_then(<[String]>::first).map(String::as_str);
        match (self.model_type.as_deref(), class) {
            (Some("llama"), _) => Ok(Architecture::Llama),
            (Some("gpt_neox"), _) => Ok(Architecture::GptNeoX),
            (None, Some(class)) if class.starts_with("Llama") => Ok(Architecture::Llama),
            (None, Some(class)) if class.starts_with("GPTNeoX") => Ok(Architecture::GptNeoX),
            (kind, class) => Err(ModelError::file(
                path,
                format!(
                    "model_type {:?} is not supported: use llama or gpt_neox",
                    kind.or(class).unwrap_or("(missing)")
                ),
            )),
        }
    }

    fn activation(&self, path: &Path, default: &str) -> Result<Activation, ModelError> {
        match self.hidden_act.as_deref().unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => Err(ModelError::file(path, format!("hidden_act {other:?} is not supported"))),
        }
    }

    fn rope(&self, path: &Path, architecture: Architecture, head_dim: usize) -> Result<Rope, ModelError> {
        let parameters =
            self.rope_parameters.clone().or_else(|| self.rope_scaling.clone()).unwrap_or_default();
        let theta = parameters.rope_theta.or(self.rope_theta).or(self.rotary_emb_base).unwrap_or(10_000.0);
        let default_share = if architecture == Architecture::GptNeoX { 0.25 } else { 1.0 };
        let share = parameters
            .partial_rotary_factor
            .or(self.partial_rotary_factor)
            .or(self.rotary_pct)
            .unwrap_or(default_share);
        if !(share > 0.0 && share <= 1.0) {
            return Err(ModelError::file(path, format!("partial_rotary_factor {share} is not in (0, 1]")));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share in (0, 1] of a head: rounded towards zero, as transformers does"
        )]
        let rotary_dims = (head_dim as f64 * share) as usize;
        let scaling = self.rope_scaling(path, &parameters)?;
        Ok(Rope { theta, rotary_dims, scaling })
    }

    fn rope_scaling(&self, path: &Path, raw: &RawRope) -> Result<Option<RopeScaling>, ModelError> {
        let need = |key: &str, value: Option<f64>| {
            value
                .filter(|value| value.is_finite() && *value > 0.0)
                .ok_or_else(|| ModelError::file(path, format!("rope scaling needs a positive {key}")))
        };
        match raw.rope_type.as_deref().or(raw.r#type.as_deref()).unwrap_or("default") {
            "default" => Ok(None),
            "linear" => Ok(Some(RopeScaling::Linear { factor: need("factor", raw.factor)? })),
            "llama3" => Ok(Some(RopeScaling::Llama3 {
                factor: need("factor", raw.factor)?,
                low_frequency_factor: need("low_freq_factor", raw.low_freq_factor)?,
                high_frequency_factor: need("high_freq_factor", raw.high_freq_factor)?,
                original_context: need(
                    "original_max_position_embeddings",
                    raw.original_max_position_embeddings.or(self.original_max_position_embeddings),
                )?,
            })),
            other => Err(ModelError::file(
                path,
                format!("rope scaling {other:?} is not supported: use default, linear or llama3"),
            )),
        }
    }
}

fn size(path: &Path, key: &str, value: Option<u64>) -> Result<usize, ModelError> {
    let value = value.ok_or_else(|| ModelError::file(path, format!("{key} is missing")))?;
    usize::try_from(value).map_err(|_| ModelError::file(path, format!("{key} is too large: {value}")))
}

#[expect(clippy::cast_possible_truncation, reason = "epsilons are used in 32 bits")]
fn narrow(epsilon: f64) -> f32 {
    epsilon as f32
}

/// One id, a list of ids, or null.
fn token_ids(path: &Path, key: &str, value: Option<&Value>) -> Result<Vec<u32>, ModelError> {
    let bad = |value: &Value| ModelError::file(path, format!("{key} is not a token id: {value}"));
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| bad(value));
    let mut ids = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(values)) => values.iter().map(id).collect::<Result<_, _>>()?,
        Some(value) => vec![id(value)?],
    };
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(old.rope.rotary_dims, 8);
        let old = r#", "rope_theta": 7.5, "rope_scaling": {"type": "linear", "factor": 2.0}"#;
        let new = r#", "rope_parameters": {"rope_type": "linear", "rope_theta": 7.5, "factor": 2.0}"#;
        assert_eq!(config(LLAMA, old).expect("old"), config(LLAMA, new).expect("new"));
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let llama = config(LLAMA, "").expect("llama");
        assert_eq!((llama.norm_eps, llama.rope.theta, llama.head_dim), (1e-6, 10_000.0, 16));
        assert_eq!((llama.attention_bias, llama.mlp_bias, llama.tied_embeddings), (false, false, false));
        let neox = config(NEOX, "").expect("neox");
        assert_eq!((neox.norm_eps, neox.rope.rotary_dims, neox.kv_heads), (1e-5, 4, 4));
        assert_eq!((neox.attention_bias, neox.parallel_residual), (true, true));
        assert_eq!(neox.activation, Activation::Gelu);
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
        assert!(refusal(LLAMA, r#", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}"#).contains("yarn"));
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
