//! Weights of any checkpoint as 8-bit integers, for generation: every factor of a product is quantised once
//! into the cache.
//!
//! A block of 32 elements has one scale, and its element of greatest magnitude is −128 scales. Embeddings
//! that are looked up stay floats.

use std::io::Write;
use std::path::Path;

use safetensors::Dtype as StoredDtype;

use super::cache_file::{WriteFault, written_once};
use super::config::ModelConfig;
use super::packed::{self, PackedShape, Part, is_factor};
use super::safetensors::header;
use super::weights::{TensorRef, Weights, transposed};
use crate::cache::packed_dir;
use crate::error::ModelError;

/// Version of the quantisation. Raised when the same weights would give another file.
const VERSION: u32 = 1;
/// Elements of a block.
const BLOCK: usize = 32;
const BITS: usize = 8;
/// The integer that stands for 0.
const ZERO: f32 = 128.0;
/// The approximate number of elements that are held at a time.
const CHUNK_ELEMENTS: usize = 1 << 18;

/// Returns the weights of a checkpoint with its factors quantised. `path` and `fingerprint` are those of the
/// checkpoint.
pub(super) fn quantised(
    config: &ModelConfig,
    weights: &Weights,
    (path, fingerprint): (&Path, &str),
    cache_dir: &Path,
) -> Result<Weights, ModelError> {
    let key = format!("{fingerprint} int8 {VERSION}");
    let file = written_once(&packed_dir(cache_dir), &key, cache_dir, |out| {
        tracing::info!(path = %path.display(), "quantising weights into the cache");
        write(config, weights, out)
    })?;
    packed::read(&file)
}

/// One tensor to write.
struct Written<'a> {
    name: &'a str,
    tensor: &'a TensorRef,
    form: Form,
}

enum Form {
    Floats,
    /// A part of a matrix, which may be stored as `[inputs, outputs]`.
    Packed {
        part: Part,
        shape: PackedShape,
        inputs_first: bool,
    },
}

fn write(config: &ModelConfig, weights: &Weights, out: &mut impl Write) -> Result<(), WriteFault> {
    let all: Vec<Written<'_>> =
        weights.iter().flat_map(|(name, tensor)| written(config, weights, name, tensor)).collect();
    out.write_all(&header(all.iter().map(Written::entry))?)?;
    for written in &all {
        let failed =
            |error| ModelError::file(&written.tensor.file, format!("tensor {}: {error}", written.name));
        written.write(failed, out)?;
    }
    Ok(())
}

/// Returns the tensors that are written for one.
fn written<'a>(
    config: &ModelConfig,
    weights: &Weights,
    name: &'a str,
    tensor: &'a TensorRef,
) -> Vec<Written<'a>> {
    let embedding = name == config.embedding();
    let is_head = config.tied_embeddings || !weights.contains(config.head());
    let packed = shape(config, name, tensor).filter(|_| !embedding || is_head);
    let floats = (embedding || packed.is_none()).then_some(Form::Floats);
    let parts = packed.into_iter().flat_map(|(shape, inputs_first)| {
        [Part::Integers, Part::Scales].map(|part| Form::Packed { part, shape, inputs_first })
    });
    floats.into_iter().chain(parts).map(|form| Written { name, tensor, form }).collect()
}

/// Returns the packed shape of a factor, and whether its inputs are the rows of the tensor; `None` for other
/// tensors, and for rows that are no whole blocks.
fn shape(config: &ModelConfig, name: &str, tensor: &TensorRef) -> Option<(PackedShape, bool)> {
    let &[rows, columns] = tensor.shape.as_slice() else { return None };
    let inputs_first = config.decoder.inputs_first && config.layer_of(name).is_some();
    let (outputs, inputs) = if inputs_first { (columns, rows) } else { (rows, columns) };
    let fits = is_factor(name, config) && inputs.is_multiple_of(BLOCK) && inputs > 0;
    fits.then_some((PackedShape { outputs, inputs, bits: BITS, block: BLOCK }, inputs_first))
}

impl Written<'_> {
    fn entry(&self) -> (String, StoredDtype, Vec<usize>) {
        match self.form {
            Form::Floats => (self.name.to_owned(), StoredDtype::F32, self.tensor.shape.clone()),
            Form::Packed { part, shape, .. } => shape.tensor(self.name, part),
        }
    }

    fn write(
        &self,
        failed: impl Fn(std::io::Error) -> ModelError,
        out: &mut impl Write,
    ) -> Result<(), WriteFault> {
        let elements: usize = self.tensor.shape.iter().product();
        let (chunk, columns) = match self.form {
            Form::Floats => (CHUNK_ELEMENTS, 0),
            Form::Packed { shape, inputs_first: true, .. } => (elements, shape.outputs),
            Form::Packed { shape, .. } => (CHUNK_ELEMENTS.next_multiple_of(shape.inputs), 0),
        };
        let mut bytes = Vec::new();
        for first in (0..elements).step_by(chunk.max(1)) {
            let count = chunk.min(elements - first);
            let mut numbers = self.tensor.read_elements(first, count).map_err(&failed)?;
            bytes.clear();
            match self.form {
                Form::Floats => bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
                Form::Packed { part, inputs_first, .. } => {
                    if inputs_first {
                        numbers = transposed(&numbers, columns);
                    }
                    for block in numbers.chunks_exact(BLOCK) {
                        push_block(block, part, &mut bytes);
                    }
                }
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// Appends a part of a quantised block.
fn push_block(block: &[f32], part: Part, out: &mut Vec<u8>) {
    let extreme = block
        .iter()
        .copied()
        .fold(0.0_f32, |extreme, number| if number.abs() > extreme.abs() { number } else { extreme });
    let scale = extreme / -ZERO;
    match part {
        // Every element is 0.
        Part::Integers if scale == 0.0 => out.extend(block.iter().map(|_| integer(0.0))),
        Part::Integers => out.extend(block.iter().map(|number| integer(number / scale))),
        Part::Scales | Part::Constants => out.extend(scale.to_le_bytes()),
    }
}

/// Returns the stored integer of a number of scales.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the number is in range")]
fn integer(scales: f32) -> u8 {
    (scales.round_ties_even() + ZERO).clamp(0.0, 255.0) as u8
}
