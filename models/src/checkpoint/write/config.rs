//! Writing `config.json`. Rotary embeddings use the format of transformers 4, which transformers 5 also
//! reads.

use serde_json::{Map, Value, json};

use crate::checkpoint::Dtype;
use crate::checkpoint::config::{Activation, Architecture, ModelConfig, RopeScaling};
use crate::error::{InvalidKind, ModelError};

/// The use of a written model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Predicting the next token.
    CausalLm,
    /// Scoring a text, with this many outputs.
    Classifier { labels: usize },
}

/// Returns the configuration of a model that has no `config.json`, without its heads.
///
/// # Errors
/// [`ModelError::Invalid`] for a rotary embedding that the format cannot express.
pub(super) fn describe(config: &ModelConfig) -> Result<Map<String, Value>, ModelError> {
    let activation = match (config.activation, config.architecture) {
        (Activation::Silu, _) => "silu",
        (Activation::Gelu, _) => "gelu",
        (Activation::GeluTanh, _) => "gelu_new",
    };
    let mut settings = Map::new();
    let mut set = |key: &str, value: Value| settings.insert(key.to_owned(), value);
    set("hidden_size", config.hidden_size.into());
    set("intermediate_size", config.intermediate_size.into());
    set("num_attention_heads", config.heads.into());
    set("vocab_size", config.vocab_size.into());
    set("max_position_embeddings", config.context_length.into());
    set("initializer_range", json!(0.02));
    set("hidden_act", activation.into());
    set("attention_bias", config.attention_bias.into());
    set("bos_token_id", config.bos_token_id.into());
    set("eos_token_id", eos(&config.eos_token_ids));
    if let Some(padding) = config.pad_token_id {
        set("pad_token_id", padding.into());
    }
    set("rope_scaling", rope_scaling(config)?);
    let epsilon: f64 = config.norm_eps.to_string().parse().unwrap_or(f64::from(config.norm_eps));
    match config.architecture {
        Architecture::Llama => {
            set("model_type", "llama".into());
            set("num_key_value_heads", config.kv_heads.into());
            set("head_dim", config.head_dim.into());
            set("rms_norm_eps", epsilon.into());
            set("mlp_bias", config.mlp_bias.into());
            set("rope_theta", config.rope.theta.into());
        }
        Architecture::GptNeoX => {
            set("model_type", "gpt_neox".into());
            set("layer_norm_eps", epsilon.into());
            set("use_parallel_residual", config.parallel_residual.into());
            set("rotary_emb_base", config.rope.theta.into());
            set("rotary_pct", (config.rope.rotary_dims as f64 / config.head_dim as f64).into());
        }
    }
    Ok(settings)
}

fn eos(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => (*id).into(),
        ids => ids.into(),
    }
}

fn rope_scaling(config: &ModelConfig) -> Result<Value, ModelError> {
    Ok(match &config.rope.scaling {
        None => Value::Null,
        Some(RopeScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": factor}),
        Some(RopeScaling::Llama3 {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_context,
        }) => {
            json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_frequency_factor,
                "high_freq_factor": high_frequency_factor, "original_max_position_embeddings": original_context,
            })
        }
        Some(RopeScaling::Divisors(_)) => {
            return Err(ModelError::invalid(
                InvalidKind::Unsupported,
                "a Hugging Face configuration cannot express the rotary frequencies of this GGUF file: use the model's \
                 Hugging Face folder",
            ));
        }
    })
}

/// Completes a configuration with the settings that depend on the weights beside it. `padding` is the token at
/// which a classifier is not read.
pub(super) fn for_purpose(
    mut settings: Map<String, Value>,
    config: &ModelConfig,
    purpose: Purpose,
    tied_embeddings: bool,
    padding: Option<u32>,
    dtype: Dtype,
) -> Map<String, Value> {
    // Keys that name the source of a copy, or code that it would load.
    for key in ["_name_or_path", "auto_map", "dtype", "transformers_version"] {
        settings.shift_remove(key);
    }
    let family = match config.architecture {
        Architecture::Llama => "Llama",
        Architecture::GptNeoX => "GPTNeoX",
    };
    let dtype = match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
    };
    let mut set = |key: &str, value: Value| settings.insert(key.to_owned(), value);
    set("num_hidden_layers", config.layers.into());
    set("torch_dtype", dtype.into());
    set("tie_word_embeddings", tied_embeddings.into());
    match purpose {
        Purpose::CausalLm => {
            set("architectures", json!([format!("{family}ForCausalLM")]));
        }
        Purpose::Classifier { labels } => {
            set("architectures", json!([format!("{family}ForSequenceClassification")]));
            let names = || (0..labels).map(|label| (label.to_string(), format!("LABEL_{label}")));
            set("id2label", names().map(|(id, name)| (id, name.into())).collect::<Map<_, _>>().into());
            let ids = (0..labels).map(|label| (format!("LABEL_{label}"), label.into()));
            set("label2id", ids.collect::<Map<_, _>>().into());
            set("pad_token_id", padding.into());
        }
    }
    settings
}
