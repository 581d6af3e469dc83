//! Reading files that nobody vouches for.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::ModelError;

/// The longest configuration file that is read, in bytes.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// The longest `tokenizer.json` that is read, in bytes; those of large vocabularies have some 30 MB.
pub(crate) const TOKENIZER_BYTES_MAX: u64 = 512 << 20;

/// The whole of a file of at most `bytes_max` bytes.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ModelError> {
    read_optional(path, bytes_max)?.ok_or_else(|| ModelError::file(path, "no such file"))
}

/// As [`read`], but `None` where there is no such file.
pub(crate) fn read_optional(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, ModelError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ModelError::file(path, error)),
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits.
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| ModelError::file(path, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(ModelError::file(
            path,
            format!("longer than the {bytes_max} bytes that are read at most"),
        ));
    }
    Ok(Some(bytes))
}

/// JSON as `T`; the error names the file, line and column.
pub(crate) fn parse_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ModelError> {
    serde_json::from_slice(bytes).map_err(|error| ModelError::file(path, error))
}
