//! The limit of a folder of artifacts before a shared store: of what is there too, what was not used for longest goes first.

use std::fs::{self, File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::id::ArtifactId;
use crate::StorageError;

/// How the names of files begin that are being written.
pub(super) const PARTIAL: &str = ".partial-";
/// A file that nobody has written to for so long belongs to a process that is no more.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder of artifacts with a limit. Several processes may use it at once: a file that is gone is fetched again.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: Option<u64>,
}

/// An artifact in a folder.
pub(super) struct CachedArtifact {
    pub(super) id: ArtifactId,
    used: SystemTime,
    pub(super) bytes: u64,
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

    /// Remembers that an artifact was used now, in the time of access: by the time of change others know a file that did not change.
    pub(super) fn used(&self, file: &File) {
        if self.bytes_max.is_some() {
            // On a folder that cannot be written to nothing is ever removed either.
            #[expect(
                clippy::disallowed_methods,
                reason = "a file's time says when it was used, and no rule reads it"
            )]
            let _ = file.set_times(FileTimes::new().set_accessed(SystemTime::now()));
        }
    }

    /// Makes room for the artifact that came last, until what is there is within the limit. Only what is in the shared store goes:
    /// the folder may have been begun without one.
    pub(super) fn evict(
        &self,
        root: &Path,
        last: Option<&ArtifactId>,
        is_shared: impl Fn(&ArtifactId, u64) -> Result<bool, StorageError>,
    ) {
        let Some(bytes_max) = self.bytes_max else { return };
        let mut cached = match cached(root) {
            Ok(cached) => cached,
            Err(error) => return tracing::warn!(%error, "the size of the cache of artifacts is not known"),
        };
        let mut bytes: u64 = cached.iter().map(|cached| cached.bytes).sum();
        // Clocks are too coarse to tell which of two came last.
        cached.retain(|cached| Some(&cached.id) != last);
        cached.sort_by_key(|cached| cached.used);
        for old in cached {
            if bytes <= bytes_max {
                return;
            }
            match is_shared(&old.id, old.bytes) {
                Ok(true) => {}
                Ok(false) => continue,
                // It would not answer for the others either.
                Err(error) => return tracing::warn!(%error, "no room is made in the cache of artifacts"),
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
pub(super) fn cached(root: &Path) -> io::Result<Vec<CachedArtifact>> {
    let mut found = Vec::new();
    for shelf in
        fs::read_dir(root)?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        for entry in fs::read_dir(shelf.path())?.flatten() {
            // Another process may have removed it by now.
            let (Some(id), Ok(metadata)) = (id_of(&entry), entry.metadata()) else { continue };
            if metadata.is_file() {
                let used = metadata.accessed().or_else(|_| metadata.modified())?;
                found.push(CachedArtifact { id, used, bytes: metadata.len(), path: entry.path() });
            }
        }
    }
    Ok(found)
}

/// Removes what processes that were killed were writing.
pub(super) fn remove_abandoned(root: &Path) {
    // What cannot be looked at or removed takes up room, and does no other harm.
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let is_partial = entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes());
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if is_partial && age.is_some_and(|age| age > ABANDONED_AFTER) {
            let removed = fs::remove_file(entry.path());
            tracing::debug!(path = %entry.path().display(), ?removed, "nobody writes this any more");
        }
    }
}

fn id_of(entry: &fs::DirEntry) -> Option<ArtifactId> {
    entry.file_name().to_str()?.parse().ok()
}
