//! Matrices as blocks of integers with one scale each: the operands of ONNX Runtime's `MatMulNBits`.
//!
//! A file in the cache holds them as safetensors, mapped by sessions. The matrix `NAME` is the tensors
//! `NAME.int4` or `NAME.int8`, `NAME.scales` and, if it has one, `NAME.constants`. Other tensors are floats.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype as StoredDtype;

use super::config::ModelConfig;
use super::layout;
use super::safetensors::{Located, locate};
use super::weights::{BytesRef, Dtype, PackedMatrix, TensorRef, Weights};
use crate::error::ModelError;

/// The shape of a packed matrix, from which the tensors of its file follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedShape {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) bits: usize,
    pub(super) block: usize,
}

/// A tensor of a packed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Integers,
    Scales,
    Constants,
}

impl Part {
    const fn name(self, bits: usize) -> &'static str {
        match self {
            Self::Integers if bits == 4 => "int4",
            Self::Integers => "int8",
            Self::Scales => "scales",
            Self::Constants => "constants",
        }
    }
}

impl PackedShape {
    /// Returns name, type and shape of a part in the file.
    pub(super) fn tensor(self, name: &str, part: Part) -> (String, StoredDtype, Vec<usize>) {
        let Self { outputs, inputs, bits, block } = self;
        let name = format!("{name}.{}", part.name(bits));
        let blocks = inputs / block;
        match part {
            Part::Integers => (name, StoredDtype::U8, vec![outputs, blocks, block * bits / 8]),
            Part::Scales | Part::Constants => (name, StoredDtype::F32, vec![outputs, blocks]),
        }
    }
}

/// Appends unsigned integers of `bits` bits as they are stored.
pub(super) fn push_integers(integers: impl Iterator<Item = u8>, bits: usize, out: &mut Vec<u8>) {
    if bits == 8 {
        out.extend(integers);
        return;
    }
    let mut integers = integers;
    while let Some(low) = integers.next() {
        out.push(low | integers.next().unwrap_or(0) << 4);
    }
}

/// Whether a model multiplies by this tensor: a projection of a layer, the head, or the embedding, which may
/// be the head.
pub(super) fn is_factor(name: &str, config: &ModelConfig) -> bool {
    if name == config.embedding() || name == config.head() {
        return true;
    }
    let module = config.layer_of(name).and_then(|(_, rest)| rest.strip_suffix(".weight"));
    module.is_some_and(|module| layout::projections(config).iter().any(|(name, _)| *name == module))
}

/// Counts the factors of a model that are packed, and those that are floats.
pub(super) fn count(weights: &Weights, config: &ModelConfig) -> (usize, usize) {
    let floats = weights.iter().filter(|(name, tensor)| {
        let matrix = tensor.shape.len() == 2 && is_factor(name, config);
        matrix && weights.packed(name).is_none()
    });
    (weights.packed_count(), floats.count())
}

/// Returns the tensors of a packed file.
pub(super) fn read(path: &Path) -> Result<Weights, ModelError> {
    let wrong = |reason: String| ModelError::file(path, reason);
    let (mut tensors, mut integers) = (BTreeMap::new(), Vec::new());
    for (name, located) in locate(path)? {
        match located {
            Located::Weights(tensor) => drop(tensors.insert(name, tensor)),
            Located::Bytes(bytes) => integers.push((name, bytes)),
            Located::Unusable(dtype) => return Err(wrong(format!("tensor {name} has type {dtype}"))),
        }
    }
    let mut weights = Weights::default();
    for (name, integers) in integers {
        let unfit = || wrong(format!("tensor {name} belongs to no packed matrix"));
        let of_bits =
            |bits: usize| Some((name.strip_suffix(Part::Integers.name(bits))?.strip_suffix('.')?, bits));
        let (matrix_name, bits) = of_bits(4).or_else(|| of_bits(8)).ok_or_else(unfit)?;
        let mut take = |part: Part| tensors.remove(&format!("{matrix_name}.{}", part.name(bits)));
        let (scales, constants) = (take(Part::Scales).ok_or_else(unfit)?, take(Part::Constants));
        let matrix = matrix(bits, integers, scales, constants).ok_or_else(unfit)?;
        weights.insert_packed(matrix_name.to_owned(), matrix);
    }
    for (name, tensor) in tensors {
        weights.insert(name, tensor).map_err(wrong)?;
    }
    Ok(weights)
}

/// Returns the matrix of these parts; `None` if they do not fit together.
fn matrix(
    bits: usize,
    integers: BytesRef,
    scales: TensorRef,
    constants: Option<TensorRef>,
) -> Option<PackedMatrix> {
    let &[outputs, blocks, bytes] = integers.shape.as_slice() else { return None };
    let block = bytes * 8 / bits;
    let factors = |tensor: &TensorRef| tensor.dtype == Dtype::F32 && tensor.shape == [outputs, blocks];
    if !factors(&scales) || !constants.as_ref().is_none_or(factors) {
        return None;
    }
    Some(PackedMatrix { outputs, inputs: blocks * block, bits, block, integers, scales, constants })
}
