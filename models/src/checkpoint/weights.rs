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
    /// Tensors of unsupported element types: the name of the type, by tensor name.
    unusable: BTreeMap<String, String>,
}

impl Weights {
    /// Returns the location of a tensor.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the checkpoint has no tensor of that name.
    pub fn get(&self, name: &str) -> Result<&TensorRef, ModelError> {
        self.tensors.get(name).ok_or_else(|| {
            ModelError::invalid(
                InvalidKind::MissingTensor,
                match self.unusable.get(name) {
                    Some(dtype) => {
                        format!(
                            "tensor {name} has elements of type {dtype}: only F32, F16 and BF16 can be used"
                        )
                    }
                    None => format!("the checkpoint has no tensor named {name}"),
                },
            )
        })
    }

    /// Whether there is a tensor of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns all tensors, sorted by name.
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

    pub(super) fn insert_unusable(&mut self, name: String, dtype: String) {
        self.unusable.insert(name, dtype);
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.tensors.retain(|name, _| keep(name));
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
        let length = usize::try_from(self.bytes).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; length];
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.offset))?;
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
