//! A new model: random weights for a given tokenizer.

use std::f64::consts::TAU;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use tokenizers::Tokenizer;

use super::{CONFIG, Purpose, config, narrow, pretty, write_bytes, write_weights};
use crate::checkpoint::config_json::model_config;
use crate::checkpoint::files::NewFolder;
use crate::checkpoint::settings::Settings;
use crate::checkpoint::tokenizer::TextTokenizer;
use crate::checkpoint::{Dtype, layout};
use crate::error::{InvalidKind, ModelError};
use serde_json::{Map, Value, json};

/// The standard deviation of initial weights: transformers' `initializer_range`.
const DEVIATION: f64 = 0.02;

/// The description of a new Llama model. Sizes are counts of elements.
#[derive(Debug, Clone, PartialEq)]
pub struct FreshModel<'a> {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads; their width, `hidden_size / heads`, is a multiple of 8.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Rows of the token embedding; at least the number of the tokenizer's tokens.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Base of the rotary embedding; 10000 is usual.
    pub rope_theta: f64,
    /// Whether the output head is the token embedding.
    pub tied_embeddings: bool,
    /// `tokenizer.json`.
    pub tokenizer_json: &'a [u8],
    /// The text of the beginning-of-sequence token.
    pub bos_token: Option<&'a str>,
    /// The text of the token that ends a completion.
    pub eos_token: &'a str,
    /// A chat template (Jinja).
    pub chat_template: Option<&'a str>,
    /// The seed of the weights. Together with the sizes it determines them.
    pub seed: u64,
}

/// Writes a new Llama model as a Hugging Face folder.
///
/// As in transformers, every matrix is normal with mean 0 and deviation 0.02, every norm is 1, and there are
/// no biases. Equal descriptions give equal bytes. The folder appears under its name when it is complete.
///
/// # Errors
/// [`ModelError::Invalid`] if the sizes do not match each other or the tokenizer. [`ModelError::Write`] if
/// `output` exists or a write fails.
pub fn initialise(model: &FreshModel<'_>, output: &Path) -> Result<(), ModelError> {
    let tokenizer = tokenizer(model)?;
    let mut settings = settings(model, &tokenizer)?;
    let config = model_config(Settings::new(Path::new(CONFIG), settings.clone()))
        .map_err(|error| ModelError::invalid(InvalidKind::Setting, format!("invalid new model: {error}")))?;
    // These two follow at the end of the file.
    settings.shift_remove("num_hidden_layers");
    settings.shift_remove("tie_word_embeddings");
    let folder = NewFolder::begin(output)?;
    let purpose = Purpose::CausalLm;
    let settings = config::for_purpose(settings, &config, purpose, model.tied_embeddings, None, Dtype::F32)?;
    write_bytes(&folder, CONFIG, &pretty(&settings)?)?;
    for (name, bytes) in tokenizer.files()? {
        write_bytes(&folder, name, &bytes)?;
    }
    let mut tensors: Vec<(String, Vec<usize>)> = layout::required(&config).into_iter().collect();
    if !model.tied_embeddings {
        tensors.push((config.head().to_owned(), vec![config.vocab_size, config.hidden_size]));
    }
    let shapes: std::collections::BTreeMap<_, _> = tensors.iter().cloned().collect();
    write_weights(&folder, &tensors, Dtype::F32, |name| {
        Ok(match shapes.get(name).map(Vec::as_slice) {
            Some(&[rows, columns]) => normal(model.seed, name, rows * columns),
            Some(shape) => vec![1.0; shape.iter().product()],
            None => Vec::new(),
        })
    })?;
    folder.finish()
}

fn tokenizer(model: &FreshModel<'_>) -> Result<TextTokenizer, ModelError> {
    let inner = Tokenizer::from_bytes(model.tokenizer_json).map_err(|error| {
        ModelError::invalid_because(InvalidKind::Tokenizer, "invalid tokenizer of the new model", error)
    })?;
    let text = |token: &str| Some(token.to_owned());
    Ok(TextTokenizer::new(
        inner,
        model.chat_template.map(str::to_owned),
        model.bos_token.and_then(text),
        text(model.eos_token),
    ))
}

fn settings(model: &FreshModel<'_>, tokenizer: &TextTokenizer) -> Result<Map<String, Value>, ModelError> {
    let invalid =
        |reason: String| ModelError::invalid(InvalidKind::Setting, format!("invalid new model: {reason}"));
    let id = |token: &str| {
        tokenizer.token_id(token).ok_or_else(|| invalid(format!("{token:?} is not a token of its tokenizer")))
    };
    let head_dim = model.hidden_size / model.heads.max(1);
    if head_dim * model.heads != model.hidden_size || !head_dim.is_multiple_of(8) {
        return Err(invalid(format!(
            "{} heads must divide a hidden size of {} into widths that are multiples of 8",
            model.heads, model.hidden_size
        )));
    }
    let tokens = tokenizer.vocabulary_size();
    if model.vocab_size < tokens {
        return Err(invalid(format!(
            "the vocabulary of {} is smaller than the tokenizer's {tokens}",
            model.vocab_size
        )));
    }
    let settings = json!({
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_attention_heads": model.heads,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context_length,
        "initializer_range": 0.02,
        "hidden_act": "silu",
        "attention_bias": false,
        "bos_token_id": model.bos_token.map(id).transpose()?,
        "eos_token_id": id(model.eos_token)?,
        "rope_scaling": null,
        "model_type": "llama",
        "num_key_value_heads": model.kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": 1e-5,
        "mlp_bias": false,
        "rope_theta": model.rope_theta,
        "num_hidden_layers": model.layers,
        "tie_word_embeddings": model.tied_embeddings,
    });
    let Value::Object(settings) = settings else {
        return Err(invalid("its settings are not an object".to_owned()));
    };
    Ok(settings)
}

/// Normal numbers with the deviation of initial weights, from the seed and the tensor's name (Box–Muller
/// transform).
fn normal(seed: u64, name: &str, length: usize) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new_derive_key("dissent 2026 initial weights");
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut random = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    // In (0, 1], so that the logarithm is finite.
    let mut uniform = || ((random.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    let mut numbers = Vec::with_capacity(length + 1);
    while numbers.len() < length {
        let (radius, angle) = (DEVIATION * (-2.0 * uniform().ln()).sqrt(), TAU * uniform());
        numbers.push(narrow(radius * angle.cos()));
        numbers.push(narrow(radius * angle.sin()));
    }
    numbers.truncate(length);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_weights_are_normal_and_depend_on_seed_and_name() {
        let numbers = normal(7, "a", 100_001);
        let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / 100_001.0;
        let variance = numbers.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 100_001.0;
        let within = numbers.iter().filter(|x| x.abs() < 0.02).count() as f64 / 100_001.0;
        // Four standard errors each.
        assert!(mean.abs() < 4.0 * 0.02 / 100_001_f64.sqrt(), "{mean}");
        assert!((variance.sqrt() / 0.02 - 1.0).abs() < 4.0 / 200_002_f64.sqrt(), "{variance}");
        assert!((within - 0.6827).abs() < 4.0 * 0.4655 / 100_001_f64.sqrt(), "{within}");
        assert_eq!(numbers[..10], normal(7, "a", 10));
        assert_ne!(numbers[..10], normal(8, "a", 10));
        assert_ne!(numbers[..10], normal(7, "b", 10));
    }
}
