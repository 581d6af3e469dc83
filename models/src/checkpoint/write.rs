//! Writes Hugging Face folders: a checkpoint with its adapter merged, and a new, untrained model.

mod config;
mod fresh;
mod padding;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use ::safetensors::Dtype as StoredDtype;

use super::files::{CONFIG_BYTES_MAX, NewFolder, TOKENIZER_BYTES_MAX, read_optional};
use super::layout::{self, SCORE_HEAD};
use super::safetensors::header;
use super::score_head::is_head_tensor;
use super::source::{Source, locate};
use super::weights::transposed;
use super::{Checkpoint, Dtype, ModelConfig};
use crate::adapter::{LoraAdapter, LoraPair, LoraTarget};
use crate::error::{InvalidKind, ModelError};

use config::Purpose;
pub use fresh::{FreshModel, initialise};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// Files of a Hugging Face folder that are copied unchanged.
const COMPANIONS: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// Writes a checkpoint with its adapter merged, as a Hugging Face folder for transformers: `config.json`,
/// `model.safetensors` and the files of the tokenizer.
///
/// Every changed projection becomes W + scaling · B · A, summed in 64 bits and rounded once. A model with a
/// score head becomes a sequence classifier without an output head (`LlamaForSequenceClassification`,
/// `GPTNeoXForSequenceClassification`). The score head may be the adapter's or the model's own. It is read at
/// the same token in transformers: the configuration names a padding token accordingly. A checkpoint
/// that was opened with its first layers only is written with those. One tensor is held in memory at a time.
/// The folder appears under its name when it is complete.
///
/// # Errors
/// [`ModelError::Invalid`] if the adapter does not fit, the element type cannot hold a weight, or Hugging
/// Face's configuration cannot express the rotary embedding. [`ModelError::Write`] if `output` exists or a
/// write fails. [`ModelError::File`] if the checkpoint cannot be read.
pub fn merge(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    dtype: Dtype,
    output: &Path,
) -> Result<(), ModelError> {
    if let Some(adapter) = adapter {
        adapter.check(&checkpoint.config)?;
    }
    let score = adapter.and_then(|adapter| adapter.score.as_ref());
    if score.is_none() && checkpoint.config.num_labels.is_some() {
        check_own_head(checkpoint)?;
    }
    let labels = score.map(|score| score.labels).or(checkpoint.config.num_labels);
    if labels.is_none() {
        checkpoint.check_policy(adapter)?;
    }
    write_model(checkpoint, labels, dtype, output, |name| match score {
        Some(score) if name == SCORE_HEAD => Ok(score.weight.clone()),
        Some(_) | None => merged(checkpoint, adapter, name),
    })
}

/// Writes a checkpoint whose weights were all trained, as [`merge`] does. `trained` returns the values of a
/// tensor by its name; other tensors are copied.
pub(crate) fn write_trained<'v>(
    checkpoint: &Checkpoint,
    trained: &dyn Fn(&str) -> Option<&'v [f32]>,
    dtype: Dtype,
    output: &Path,
) -> Result<(), ModelError> {
    let labels = trained(SCORE_HEAD).map(|head| head.len() / checkpoint.config.hidden_size);
    write_model(checkpoint, labels, dtype, output, |name| match trained(name) {
        Some(numbers) => Ok(numbers.to_vec()),
        None => checkpoint.weights.read_f32(name),
    })
}

/// Writes a model folder; `values` returns the weights by name. With `labels` it becomes a classifier.
fn write_model(
    checkpoint: &Checkpoint,
    labels: Option<usize>,
    dtype: Dtype,
    output: &Path,
    values: impl FnMut(&str) -> Result<Vec<f32>, ModelError>,
) -> Result<(), ModelError> {
    let ModelConfig { vocab_size, hidden_size, .. } = checkpoint.config;
    let purpose = labels.map_or(Purpose::CausalLm, |labels| Purpose::Classifier { labels });
    if purpose == Purpose::CausalLm && checkpoint.weights.iter().any(|(name, _)| is_head_tensor(name)) {
        tracing::warn!("leaving out the reward head: the result is a language model");
    }
    let folder = NewFolder::begin(output)?;
    write_companions(&folder, checkpoint, purpose, dtype)?;
    let mut tensors: Vec<(String, Vec<usize>)> = layout::required(&checkpoint.config).into_iter().collect();
    match purpose {
        Purpose::Classifier { labels } => tensors.push((SCORE_HEAD.to_owned(), vec![labels, hidden_size])),
        Purpose::CausalLm if has_own_head(checkpoint) => {
            tensors.push((checkpoint.config.head().to_owned(), vec![vocab_size, hidden_size]));
        }
        Purpose::CausalLm => {}
    }
    write_weights(&folder, &tensors, dtype, values)?;
    folder.finish()
}

/// Checks that a classifier of transformers gives the rewards of the checkpoint's own score head.
fn check_own_head(checkpoint: &Checkpoint) -> Result<(), ModelError> {
    match checkpoint.reward_head()? {
        Some(head) if head.is_classifier() => Ok(()),
        Some(_) | None => Err(ModelError::invalid(
            InvalidKind::Unsupported,
            "a sequence classifier of transformers has no score.bias and does not read padding, so it would give \
             other rewards than this model: use the model as it is",
        )),
    }
}

/// Whether the output head is a separate tensor.
fn has_own_head(checkpoint: &Checkpoint) -> bool {
    !checkpoint.config.tied_embeddings && checkpoint.weights.contains(checkpoint.config.head())
}

/// Returns a tensor of the checkpoint, with the adapter's change if it has one.
fn merged(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    name: &str,
) -> Result<Vec<f32>, ModelError> {
    let mut values = checkpoint.weights.read_f32(name)?;
    let target = checkpoint.config.layer_of(name).and_then(|(layer, rest)| {
        Some(LoraTarget { layer, module: rest.strip_suffix(".weight")?.to_owned() })
    });
    if let Some(pair) = target.and_then(|target| adapter?.layers.get(&target)) {
        if checkpoint.config.decoder.inputs_first {
            values = transposed(&values, pair.outputs);
        }
        add_low_rank(&mut values, pair);
        if checkpoint.config.decoder.inputs_first {
            values = transposed(&values, pair.inputs);
        }
    }
    Ok(values)
}

/// W + scaling · B · A, for W `[outputs, inputs]`.
fn add_low_rank(weight: &mut [f32], pair: &LoraPair) {
    let mut sums = vec![0.0_f64; pair.inputs];
    for (row, b) in weight.chunks_exact_mut(pair.inputs).zip(pair.b.chunks_exact(pair.rank)) {
        sums.fill(0.0);
        for (&b, a) in b.iter().zip(pair.a.chunks_exact(pair.inputs)) {
            for (sum, &a) in sums.iter_mut().zip(a) {
                *sum += f64::from(b) * f64::from(a);
            }
        }
        for (weight, sum) in row.iter_mut().zip(&sums) {
            *weight = narrow(f64::from(*weight) + f64::from(pair.scaling) * sum);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "weights are 32-bit floats")]
fn narrow(number: f64) -> f32 {
    number as f32
}

/// Writes the configuration and the tokenizer.
fn write_companions(
    folder: &NewFolder<'_>,
    checkpoint: &Checkpoint,
    purpose: Purpose,
    dtype: Dtype,
) -> Result<(), ModelError> {
    let config = match locate(&checkpoint.source)? {
        Source::Folder => {
            for name in COMPANIONS {
                if let Some(bytes) = read_optional(&checkpoint.source.join(name), TOKENIZER_BYTES_MAX)? {
                    write_bytes(folder, name, &bytes)?;
                }
            }
            let path = checkpoint.source.join(CONFIG);
            let bytes = super::files::read(&path, CONFIG_BYTES_MAX)?;
            super::config_json::text_keys(&path, &bytes)?
        }
        Source::Gguf(path) => {
            for (name, bytes) in checkpoint.tokenizer.files()? {
                write_bytes(folder, name, &bytes)?;
            }
            super::gguf::settings(&path)?
        }
    };
    let tied = match purpose {
        Purpose::CausalLm => !has_own_head(checkpoint),
        Purpose::Classifier { .. } => checkpoint.config.tied_embeddings,
    };
    let padding = padding::of_classifier(checkpoint);
    let config = config::for_purpose(config, &checkpoint.config, purpose, tied, padding, dtype)?;
    write_bytes(folder, CONFIG, &pretty(&config)?)
}

fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>, ModelError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| {
        ModelError::invalid_because(
            InvalidKind::Serialisation,
            "the configuration cannot be serialised",
            error,
        )
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn write_bytes(folder: &NewFolder<'_>, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
    folder.file(name, |file| put(file, name, bytes))
}

fn put(file: &mut BufWriter<File>, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
    file.write_all(bytes).map_err(|error| ModelError::write(Path::new(name), error))
}

/// Writes `model.safetensors`. `values` is called once for each tensor, in order.
fn write_weights(
    folder: &NewFolder<'_>,
    tensors: &[(String, Vec<usize>)],
    dtype: Dtype,
    mut values: impl FnMut(&str) -> Result<Vec<f32>, ModelError>,
) -> Result<(), ModelError> {
    let stored = match dtype {
        Dtype::F32 => StoredDtype::F32,
        Dtype::F16 => StoredDtype::F16,
        Dtype::BF16 => StoredDtype::BF16,
    };
    let header = header(tensors.iter().map(|(name, shape)| (name.clone(), stored, shape.clone())))
        .map_err(|error| ModelError::write(Path::new(WEIGHTS), error))?;
    folder.file(WEIGHTS, |file| {
        put(file, WEIGHTS, &header)?;
        for (name, shape) in tensors {
            let values = values(name)?;
            if values.len() != shape.iter().product::<usize>() {
                return Err(ModelError::invalid(
                    InvalidKind::ShapeMismatch,
                    format!("tensor {name} has {} values, not {shape:?}", values.len()),
                ));
            }
            put(file, WEIGHTS, &encode(name, &values, dtype)?)?;
        }
        Ok(())
    })
}

/// Encodes little-endian elements, rounded to the nearest value.
fn encode(name: &str, values: &[f32], dtype: Dtype) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::with_capacity(values.len() * dtype.size());
    let mut finite = true;
    for &value in values {
        match dtype {
            Dtype::F32 => {
                finite &= value.is_finite();
                bytes.extend(value.to_le_bytes());
            }
            Dtype::F16 => {
                let value = half::f16::from_f32(value);
                finite &= value.is_finite();
                bytes.extend(value.to_le_bytes());
            }
            Dtype::BF16 => {
                let value = half::bf16::from_f32(value);
                finite &= value.is_finite();
                bytes.extend(value.to_le_bytes());
            }
        }
    }
    if finite {
        return Ok(bytes);
    }
    Err(ModelError::invalid(
        InvalidKind::NotFinite,
        match dtype {
            Dtype::F32 | Dtype::BF16 => format!("tensor {name} holds a value that is not a finite number"),
            Dtype::F16 => {
                format!("tensor {name} holds a value that is too large for 16-bit floats: write f32 or bf16")
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_rank_change_is_added_row_by_row() {
        // B · A = [[1·1 + 2·3, 1·2 + 2·4], [3 + 4·3, 3·2 + 4·4]] = [[7, 10], [15, 22]].
        let pair = LoraPair {
            a: vec![1.0, 2.0, 3.0, 4.0],
            b: vec![1.0, 2.0, 3.0, 4.0],
            rank: 2,
            inputs: 2,
            outputs: 2,
            scaling: 0.5,
        };
        let mut weight = vec![100.0, 0.0, 0.0, -1.0];
        add_low_rank(&mut weight, &pair);
        assert_eq!(weight, [103.5, 5.0, 7.5, 10.0]);
    }

    #[test]
    fn a_weight_too_large_for_16_bits_is_refused_by_name() {
        let error = encode("big", &[1e6], Dtype::F16).expect_err("too large").to_string();
        assert!(error.contains("big") && error.contains("bf16"), "{error}");
        assert!(encode("big", &[1e6], Dtype::BF16).is_ok());
        assert!(encode("nan", &[f32::NAN], Dtype::F32).is_err());
    }
}
