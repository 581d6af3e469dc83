//! Files of weights in the cache: each is written once, whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::fingerprint::of_file;
use super::safetensors::locate;
use crate::error::ModelError;

/// The name prefix of unfinished files.
const UNFINISHED: &str = "unfinished-";

/// Why a file cannot be written.
pub(super) enum WriteFault {
    /// The model cannot be read.
    Source(ModelError),
    /// The cache cannot be written.
    Cache(std::io::Error),
}

impl From<ModelError> for WriteFault {
    fn from(error: ModelError) -> Self {
        Self::Source(error)
    }
}

impl From<std::io::Error> for WriteFault {
    fn from(error: std::io::Error) -> Self {
        Self::Cache(error)
    }
}

/// Returns the safetensors file of the weights that `key` describes. `write` makes it if it is not in the
/// folder.
///
/// The file is written under a temporary name, synced and renamed, under a lock. A process that dies leaves
/// no partial file under the final name. Of several processes that start together, one writes and the others
/// wait.
pub(super) fn written_once(
    folder: &Path,
    key: &str,
    cache_dir: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> Result<(), WriteFault>,
) -> Result<PathBuf, ModelError> {
    let target = folder.join(format!("{}.safetensors", blake3::hash(key.as_bytes()).to_hex()));
    if is_whole(&target, cache_dir) {
        return Ok(target);
    }
    let in_cache = |error: std::io::Error| {
        ModelError::file(&target, format!("failed to write the weights into the cache: {error}"))
    };
    fs::create_dir_all(folder).map_err(in_cache)?;
    let lock = File::create(folder.join("lock")).map_err(in_cache)?;
    lock.lock().map_err(in_cache)?;
    if is_whole(&target, cache_dir) {
        return Ok(target);
    }
    remove_unfinished(folder).map_err(in_cache)?;
    let mut file = unfinished_file(folder).map_err(in_cache)?;
    let mut out = BufWriter::new(file.as_file_mut());
    write(&mut out).map_err(|fault| match fault {
        WriteFault::Source(error) => error,
        WriteFault::Cache(error) => in_cache(error),
    })?;
    out.flush().map_err(in_cache)?;
    drop(out);
    file.as_file().sync_all().map_err(in_cache)?;
    file.persist(&target).map_err(|error| in_cache(error.error))?;
    fs::write(checksum_path(&target), of_file(&target, cache_dir)?).map_err(in_cache)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(in_cache)?;
    Ok(target)
}

/// Whether the cached file is unchanged. An untouched file is not read again, because its hash is cached.
fn is_whole(target: &Path, cache_dir: &Path) -> bool {
    let written = fs::read_to_string(checksum_path(target)).unwrap_or_default();
    locate(target).is_ok() && of_file(target, cache_dir).is_ok_and(|now| now == written)
}

/// Returns the checksum file of a cached file: its BLAKE3 hash, in hex.
fn checksum_path(target: &Path) -> PathBuf {
    target.with_extension("blake3")
}

/// Returns a temporary file whose permissions follow the umask: a cache may be shared.
fn unfinished_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    builder.tempfile_in(folder)
}

/// Deletes the temporary files of processes that died. Only the lock holder writes any, so none is in use.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
