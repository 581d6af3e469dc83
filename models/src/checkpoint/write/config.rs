//! Completes the settings of a model for a `config.json`.

use serde_json::{Map, Value, json};

use crate::checkpoint::Dtype;
use crate::checkpoint::config::ModelConfig;
use crate::error::{InvalidKind, ModelError};

/// The key of the number of layers.
const LAYERS: &str = "num_hidden_layers";

/// The use of a written model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Predicting the next token.
    CausalLm,
    /// Scoring a text, with this many outputs.
    Classifier { labels: usize },
}

/// Completes a configuration with the settings that depend on the weights beside it. `padding` is the token
/// at which a classifier is not read.
pub(super) fn for_purpose(
    mut settings: Map<String, Value>,
    config: &ModelConfig,
    purpose: Purpose,
    tied_embeddings: bool,
    padding: Option<u32>,
    dtype: Dtype,
) -> Result<Map<String, Value>, ModelError> {
    // Keys that name the source of a copy, or code that it would load.
    for key in ["_name_or_path", "auto_map", "dtype", "transformers_version"] {
        settings.shift_remove(key);
    }
    let dtype = match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
    };
    // The layers may be fewer than in the source of a copy.
    for key in ["layer_types", "no_rope_layers"] {
        if let Some(Value::Array(layers)) = settings.get_mut(key) {
            layers.truncate(config.layers);
        }
    }
    let alias = config.family.aliases.iter().find(|(usual, _)| *usual == LAYERS).map(|(_, alias)| *alias);
    let layers_key = alias.unwrap_or(LAYERS);
    let mut set = |key: &str, value: Value| settings.insert(key.to_owned(), value);
    set(layers_key, config.layers.into());
    set("torch_dtype", dtype.into());
    set("tie_word_embeddings", tied_embeddings.into());
    match purpose {
        Purpose::CausalLm => {
            set("architectures", json!([config.family.causal_lm]));
        }
        Purpose::Classifier { labels } => {
            let class = config.family.classifier.ok_or_else(|| {
                let family = config.family.model_type;
                let reason =
                    format!("transformers has no sequence classifier of {family}: train an adapter instead");
                ModelError::invalid(InvalidKind::Unsupported, reason)
            })?;
            set("architectures", json!([class]));
            let names = || (0..labels).map(|label| (label.to_string(), format!("LABEL_{label}")));
            set("id2label", names().map(|(id, name)| (id, name.into())).collect::<Map<_, _>>().into());
            let ids = (0..labels).map(|label| (format!("LABEL_{label}"), label.into()));
            set("label2id", ids.collect::<Map<_, _>>().into());
            set("pad_token_id", padding.into());
        }
    }
    Ok(settings)
}
