//! The LRU cache of artifacts before a shared store: eviction of the least recently used.

use std::fs::{self, File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dissent_domain::error::chain;

use super::id::ArtifactId;
use crate::StorageError;

/// Prefix of temporary files.
pub(super) const PARTIAL: &str = ".partial-";
/// Age after which a temporary file counts as abandoned by a killed process.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A limit for a folder of artifacts. Several processes may use the folder at once: an evicted file is
/// fetched again.
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

    /// Largest artifact that the cache accepts, in bytes.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max.unwrap_or(u64::MAX)
    }

    /// Notes that an artifact is used now, in the file's access time. Others tell by the change time whether
    /// a file changed.
    pub(super) fn used(&self, file: &File) {
        if self.bytes_max.is_some() {
            // In a read-only folder nothing is ever evicted, so a failure is harmless.
            #[expect(
                clippy::disallowed_methods,
                reason = "a file's time says when it was used, and no rule reads it"
            )]
            let _ = file.set_times(FileTimes::new().set_accessed(SystemTime::now()));
        }
    }

    /// Evicts the least recently used artifacts until the folder is within its limit, but not `last`, the
    /// newest. Evicts only artifacts that the shared store has: the folder may be older than the shared
    /// store.
    pub(super) fn evict(
        &self,
        root: &Path,
        last: Option<&ArtifactId>,
        is_shared: impl Fn(&ArtifactId, u64) -> Result<bool, StorageError>,
    ) {
        let Some(bytes_max) = self.bytes_max else { return };
        let mut cached = match cached(root) {
            Ok(cached) => cached,
            Err(error) => {
                return tracing::warn!(error = %chain(&error), "failed to measure the artifact cache");
            }
        };
        let mut bytes: u64 = cached.iter().map(|cached| cached.bytes).sum();
        // Clocks are too coarse to tell which of two files is the newest.
        cached.retain(|cached| Some(&cached.id) != last);
        cached.sort_by_key(|cached| cached.used);
        for old in cached {
            if bytes <= bytes_max {
                return;
            }
            match is_shared(&old.id, old.bytes) {
                Ok(true) => {}
                Ok(false) => continue,
                // The store would fail for the others, too.
                Err(error) => {
                    return tracing::warn!(error = %chain(&error), "failed to query shared store; skipping eviction");
                }
            }
            match fs::remove_file(&old.path) {
                Ok(()) => bytes -= old.bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => bytes -= old.bytes,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), path = %old.path.display(), "failed to evict an artifact")
                }
            }
        }
    }
}

/// Returns the artifacts of a folder. Other files are skipped.
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

/// Removes temporary files of killed processes.
pub(super) fn remove_abandoned(root: &Path) {
    // A file that cannot be read or removed takes up space and does no other harm.
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let is_partial = entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes());
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if is_partial && age.is_some_and(|age| age > ABANDONED_AFTER) {
            let removed = fs::remove_file(entry.path());
            tracing::debug!(path = %entry.path().display(), ?removed, "removing an abandoned temporary file");
        }
    }
}

fn id_of(entry: &fs::DirEntry) -> Option<ArtifactId> {
    entry.file_name().to_str()?.parse().ok()
}
