//! The locations of the weights. Weights are never loaded whole: sessions map the files themselves.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use safetensors::Dtype as StoredDtype;

use crate::error::{InvalidKind, ModelError};

/// The element types that weights may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
}

impl Dtype {
    /// Returns the type of a safetensors tensor, if weights may have it.
    pub(crate) fn of_stored(stored: StoredDtype) -> Option<Self> {
        let known =
            [(StoredDtype::F32, Self::F32), (StoredDtype::F16, Self::F16), (StoredDtype::BF16, Self::BF16)];
        known.into_iter().find(|(theirs, _)| *theirs == stored).map(|(_, ours)| ours)
    }

    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// The location of one tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRef {
    /// The file's real path. It contains no symbolic links, because ONNX Runtime refuses external data behind
    /// them.
    pub file: PathBuf,
    /// Offset in bytes from the beginning of the file.
    pub offset: u64,
    /// Length in bytes: the product of `shape` times the element's size.
    pub bytes: u64,
    /// Element type.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

/// The location of bytes in a file, as [`TensorRef`] of floats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BytesRef {
    /// The file's real path.
    pub file: PathBuf,
    /// Offset in bytes from the beginning of the file.
    pub offset: u64,
    /// Row-major shape; its product is the number of bytes.
    pub shape: Vec<usize>,
}

/// A matrix `[outputs, inputs]` in blocks along its rows.
///
/// An element is scale · (q − zero), plus the constant of its block if there are constants. q is an unsigned
/// integer of `bits` bits, and zero is half its range: 8 or 128.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedMatrix {
    /// Rows.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// Bits of an integer: 4 or 8.
    pub bits: usize,
    /// Elements of a block.
    pub block: usize,
    /// q, `[outputs, inputs / block, block · bits / 8]` bytes. Of two 4-bit integers the first is in the low
    /// bits.
    pub integers: BytesRef,
    /// `[outputs, inputs / block]`, 32-bit floats.
    pub scales: TensorRef,
    /// `[outputs, inputs / block]`, 32-bit floats.
    pub constants: Option<TensorRef>,
}

/// One tensor as stored.
#[derive(Debug, Clone)]
pub(crate) struct StoredTensor {
    /// The Hugging Face name of the tensor.
    pub name: String,
    pub dtype: &'static str,
    pub elements: u64,
}

/// The tensors of a checkpoint, by their Hugging Face names.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    tensors: BTreeMap<String, TensorRef>,
    /// Matrices in blocks of integers, for generation. A matrix may also be among `tensors`.
    packed: BTreeMap<String, PackedMatrix>,
    /// Tensors of unsupported element types: the name of the type, by tensor name.
    unusable: BTreeMap<String, String>,
}

impl Weights {
    /// Returns the location of a tensor of floats.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the checkpoint has no tensor of that name, or only a [`PackedMatrix`].
    pub fn get(&self, name: &str) -> Result<&TensorRef, ModelError> {
        self.tensors.get(name).ok_or_else(|| {
            ModelError::invalid(
                InvalidKind::MissingTensor,
                match (self.unusable.get(name), self.packed.get(name)) {
                    (Some(dtype), _) => {
                        format!(
                            "tensor {name} has elements of type {dtype}: only F32, F16 and BF16 can be used"
                        )
                    }
                    (None, Some(_)) => format!(
                        "tensor {name} is packed for generation: open the checkpoint with f32 weights"
                    ),
                    (None, None) => format!("the checkpoint has no tensor named {name}"),
                },
            )
        })
    }

    /// Whether there is a tensor of that name, as floats or packed.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.packed.contains_key(name)
    }

    /// Returns a packed matrix; `None` if there is none of that name.
    #[must_use]
    pub fn packed(&self, name: &str) -> Option<&PackedMatrix> {
        self.packed.get(name)
    }

    /// Returns a packed matrix that is not there as floats.
    pub(crate) fn only_packed(&self, name: &str) -> Option<&PackedMatrix> {
        self.packed.get(name).filter(|_| !self.tensors.contains_key(name))
    }

    /// Returns the number of packed matrices. Weights with any are for generation on the CPU.
    #[must_use]
    pub fn packed_count(&self) -> usize {
        self.packed.len()
    }

    /// Returns all tensors of floats, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorRef)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    pub(super) fn insert(&mut self, name: String, tensor: TensorRef) -> Result<(), String> {
        match self.tensors.entry(name) {
            Entry::Occupied(entry) => Err(format!("duplicate tensor {}", entry.key())),
            Entry::Vacant(entry) => {
                entry.insert(tensor);
                Ok(())
            }
        }
    }

    pub(super) fn insert_packed(&mut self, name: String, matrix: PackedMatrix) {
        self.packed.insert(name, matrix);
    }

    pub(super) fn insert_unusable(&mut self, name: String, dtype: String) {
        self.unusable.insert(name, dtype);
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.tensors.retain(|name, _| keep(name));
        self.packed.retain(|name, _| keep(name));
        self.unusable.retain(|name, _| keep(name));
    }

    /// Reads one tensor as 32-bit floats, row-major.
    ///
    /// # Errors
    /// As [`Weights::get`], and [`ModelError::File`] when the file cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let tensor = self.get(name)?;
        tensor.read_f32().map_err(|error| ModelError::File {
            path: tensor.file.clone(),
            reason: format!("tensor {name}: {error}"),
        })
    }
}

impl TensorRef {
    pub(super) fn stored(&self, name: &str) -> StoredTensor {
        let dtype = match self.dtype {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
        };
        StoredTensor { name: name.to_owned(), dtype, elements: self.bytes / self.dtype.size() as u64 }
    }

    fn read_f32(&self) -> std::io::Result<Vec<f32>> {
        self.read_elements(0, self.shape.iter().product())
    }

    /// Reads `count` elements from the `first` one on, row-major, as 32-bit floats.
    pub(super) fn read_elements(&self, first: usize, count: usize) -> std::io::Result<Vec<f32>> {
        let mut bytes = vec![0; count * self.dtype.size()];
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.offset + (first * self.dtype.size()) as u64))?;
        file.read_exact(&mut bytes)?;
        Ok(decode_f32(self.dtype, &bytes))
    }
}

/// Decodes little-endian elements to 32-bit floats. A trailing partial element is dropped.
pub(crate) fn decode_f32(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect(),
        Dtype::F16 => {
            bytes.as_chunks::<2>().0.iter().map(|&chunk| half::f16::from_le_bytes(chunk).to_f32()).collect()
        }
        Dtype::BF16 => {
            bytes.as_chunks::<2>().0.iter().map(|&chunk| half::bf16::from_le_bytes(chunk).to_f32()).collect()
        }
    }
}

/// Returns a matrix `[rows, columns]` as `[columns, rows]`.
pub(crate) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}
