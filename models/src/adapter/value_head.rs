//! The value head of a policy. PEFT has no such head, so it is stored beside the adapter in its own file.

use std::path::Path;

use safetensors::SafeTensors;

use super::read::{WEIGHTS_BYTES_MAX, matrix};
use super::write::serialise;
use crate::checkpoint::files::{read_optional, write_whole};
use crate::error::ModelError;

const FILE: &str = "value_head.safetensors";
/// The name of the tensor in TRL's models with a value head.
const WEIGHT: &str = "v_head.summary.weight";

/// A value head: the value of a position is the dot product of this weight with the hidden state.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueHead {
    /// `[hidden]`.
    pub weight: Vec<f32>,
}

impl ValueHead {
    /// Reads `value_head.safetensors` of a folder; `None` if there is no such file.
    ///
    /// # Errors
    /// [`ModelError::File`] when it is malformed.
    pub fn open(dir: &Path) -> Result<Option<Self>, ModelError> {
        let path = dir.join(FILE);
        let Some(bytes) = read_optional(&path, WEIGHTS_BYTES_MAX)? else { return Ok(None) };
        let weight = || -> Result<Vec<f32>, String> {
            let file = SafeTensors::deserialize(&bytes)
                .map_err(|error| format!("not a safetensors file: {error}"))?;
            let view = file.tensor(WEIGHT).map_err(|_| format!("tensor {WEIGHT} is missing"))?;
            let matrix = matrix(&view).map_err(|reason| format!("tensor {WEIGHT} {reason}"))?;
            if matrix.rows == 1 {
                Ok(matrix.values)
            } else {
                Err(format!("tensor {WEIGHT} has {} rows instead of 1", matrix.rows))
            }
        };
        Ok(Some(Self { weight: weight().map_err(|reason| ModelError::file(&path, reason))? }))
    }

    /// Writes `value_head.safetensors` into a folder, which must exist. The same numbers give the same bytes.
    ///
    /// # Errors
    /// [`ModelError::Write`] when the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<(), ModelError> {
        let bytes = serialise(&[(WEIGHT.to_owned(), [1, self.weight.len()], &self.weight)])?;
        write_whole(&dir.join(FILE), &bytes)
    }
}
