//! The limit of a folder of artifacts that are all in a shared store too: what was not used for longest goes first.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ArtifactId;

/// A folder of artifacts with a limit. Several processes may use it at once: a file that is gone is fetched again.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: Option<u64>,
}

/// An artifact in a folder.
pub(super) struct Kept {
    pub(super) id: ArtifactId,
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

impl Cache {
    pub(super) fn new(bytes_max: Option<u64>) -> Self {
        Self { bytes_max }
    }

    /// The most that an artifact may have.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max.unwrap_or(u64::MAX)
    }

    /// Remembers that an artifact was used now.
    pub(super) fn used(&self, file: &File) {
        if self.bytes_max.is_some() {
            // On a folder that cannot be written to nothing is ever removed either.
            #[expect(
                clippy::disallowed_methods,
                reason = "a file's time says when it was used, and no rule reads it"
            )]
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Makes room for the artifact that came last, until what is there is within the limit.
    pub(super) fn make_room(&self, root: &Path, last: &ArtifactId) {
        let Some(bytes_max) = self.bytes_max else { return };
        let mut kept = match kept(root) {
            Ok(kept) => kept,
            Err(error) => return tracing::warn!(%error, "the size of the cache of artifacts is not known"),
        };
        let mut bytes: u64 = kept.iter().map(|kept| kept.bytes).sum();
        // Clocks are too coarse to tell which of two came last.
        kept.retain(|kept| kept.id != *last);
        kept.sort_by_key(|kept| kept.used);
        for old in kept {
            if bytes <= bytes_max {
                return;
            }
            match fs::remove_file(&old.path) {
                Ok(()) => bytes -= old.bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => bytes -= old.bytes,
                Err(error) => tracing::warn!(%error, path = %old.path.display(), "failed to make room"),
            }
        }
    }
}

/// The artifacts of a folder. What is not one is passed over.
pub(super) fn kept(root: &Path) -> io::Result<Vec<Kept>> {
    let mut found = Vec::new();
    for shelf in
        fs::read_dir(root)?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        for entry in fs::read_dir(shelf.path())?.flatten() {
            // Another process may have removed it by now.
            let (Some(id), Ok(metadata)) = (id_of(&entry), entry.metadata()) else { continue };
            if metadata.is_file() {
                let used = metadata.modified()?;
                found.push(Kept { id, used, bytes: metadata.len(), path: entry.path() });
            }
        }
    }
    Ok(found)
}

fn id_of(entry: &fs::DirEntry) -> Option<ArtifactId> {
    entry.file_name().to_str()?.parse().ok()
}
