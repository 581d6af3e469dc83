//! Reads untrusted files, and writes files atomically.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Read, Write as _};
use std::path::Path;

use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::{python_json, stand_in};
use crate::error::ModelError;

/// The largest configuration file that is read, in bytes.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// The largest `tokenizer.json` that is read, in bytes. Large vocabularies take about 30 MB.
pub(crate) const TOKENIZER_BYTES_MAX: u64 = 512 << 20;

/// Reads a whole file of at most `bytes_max` bytes.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ModelError> {
    read_optional(path, bytes_max)?.ok_or_else(|| ModelError::file(path, "no such file"))
}

/// As [`read`], but `None` if the file does not exist.
pub(crate) fn read_optional(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, ModelError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ModelError::file(path, error)),
    };
    let mut bytes = Vec::new();
    // One byte more than the limit tells a file that is too long from a file that just fits.
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| ModelError::file(path, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(ModelError::file(path, format!("longer than the limit of {bytes_max} bytes")));
    }
    stand_in::refuse(path, &bytes)?;
    Ok(Some(bytes))
}

/// Parses JSON as `T`, also with the bare words of Python. The error names the file, line and column.
pub(crate) fn parse_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ModelError> {
    let json = python_json::to_json(bytes);
    serde_json::from_slice(&json).map_err(|error| match json {
        Cow::Borrowed(_) => ModelError::file(path, error),
        Cow::Owned(_) => ModelError::file(
            path,
            format!("{error} (the file has NaN or Infinity: use numbers for the settings that are read)"),
        ),
    })
}

/// Serialises bytes as bytes; serde would write a list of numbers.
pub(crate) fn as_bytes<S: serde::Serializer>(bytes: &&[u8], serialiser: S) -> Result<S::Ok, S::Error> {
    serialiser.serialize_bytes(bytes)
}

/// The name prefix of unfinished files and folders.
const UNFINISHED: &str = ".dissent-";

/// Writes a file atomically: under a temporary name, synced, then renamed. A reader sees the old file or the
/// whole new one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let write = || -> io::Result<()> {
        let folder = parent(path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED).suffix(".partial");
        // The usual permissions of a new file, by the umask. A temporary file is otherwise readable by its
        // owner only.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_folder(folder)
    };
    write().map_err(|error| ModelError::write(path, error))
}

/// A folder that is filled under a temporary name and renamed when it is complete.
pub(crate) struct NewFolder<'a> {
    target: &'a Path,
    unfinished: TempDir,
}

impl<'a> NewFolder<'a> {
    /// Begins the folder `target`, which must not exist or must be empty.
    pub(crate) fn begin(target: &'a Path) -> Result<Self, ModelError> {
        let failed = |error: io::Error| ModelError::write(target, error);
        match target.read_dir().map(|mut entries| entries.next().is_some()) {
            Ok(false) => {}
            Ok(true) => {
                return Err(ModelError::write(
                    target,
                    "the folder is not empty: name one that does not exist",
                ));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let parent = parent(target);
        fs::create_dir_all(parent).map_err(failed)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED).suffix(".partial");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        Ok(Self { target, unfinished: builder.tempdir_in(parent).map_err(failed)? })
    }

    /// Writes and syncs a file of the folder.
    pub(crate) fn file(
        &self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<File>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let failed = |error: io::Error| ModelError::write(&self.target.join(name), error);
        let mut file = BufWriter::with_capacity(
            1 << 20,
            File::create(self.unfinished.path().join(name)).map_err(failed)?,
        );
        write(&mut file)?;
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)
    }

    /// Renames the folder to its final name.
    pub(crate) fn finish(self) -> Result<(), ModelError> {
        let failed = |error: io::Error| ModelError::write(self.target, error);
        sync_folder(self.unfinished.path()).map_err(failed)?;
        fs::rename(self.unfinished.path(), self.target).map_err(failed)?;
        sync_folder(parent(self.target)).map_err(failed)?;
        // Nothing remains under the temporary name.
        let _ = self.unfinished.keep();
        Ok(())
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs a folder, because a rename is durable only after that. Systems that cannot open folders are skipped.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        Err(_) => Ok(()),
    }
}
