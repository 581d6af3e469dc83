//! Snapshots of experiments, in files that may be deleted at any time.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use dissent_domain::error::chain;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use dissent_domain::replay::{Replay, ReplayError};
use dissent_domain::snapshot::Snapshot;

use crate::StorageError;
use crate::modes::shared_file_builder;

/// Largest file that is read, in bytes.
const BYTES_MAX: u64 = 4 << 30;
/// Bytes of the checksum at the beginning of a file.
const CHECKSUM_BYTES: usize = blake3::OUT_LEN;
/// Events read at a time.
const READ_EVENTS: usize = 256;
/// Events after which a new snapshot is saved: a quarter of a second of folding.
pub const SNAPSHOT_EVENTS: u64 = 50_000;

/// A folder with at most one snapshot of each experiment.
#[derive(Debug, Clone)]
pub struct Snapshots {
    dir: PathBuf,
    is_read_only: bool,
}

/// Error of building a state from a log.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An event cannot be applied.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

impl Snapshots {
    /// Uses this folder, which need not exist.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), is_read_only: false }
    }

    /// Uses this folder without changing it, because another process writes snapshots there.
    #[must_use]
    pub fn read_only(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), is_read_only: true }
    }

    fn path(&self, experiment: &ExperimentId) -> PathBuf {
        self.dir.join(format!("{experiment}.snapshot"))
    }

    /// Saves a snapshot in place of the previous one, unless the folder is read only.
    ///
    /// # Errors
    /// If it cannot be written. The previous one is then unchanged.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), StorageError> {
        if self.is_read_only {
            return Ok(());
        }
        let path = self.path(&snapshot.experiment);
        let encoded = snapshot.encode().map_err(std::io::Error::other);
        let bytes = encoded.map_err(StorageError::io("write", &path))?;
        fs::create_dir_all(&self.dir).map_err(StorageError::io("create", &self.dir))?;
        let written = || {
            let mut file = shared_file_builder().tempfile_in(&self.dir)?;
            file.write_all(blake3::hash(&bytes).as_bytes())?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)
        };
        written().map(drop).map_err(StorageError::io("write", &path))
    }

    /// Loads the snapshot of an experiment, if it is intact, made by the present rules, and of this log's
    /// history.
    ///
    /// # Errors
    /// If the log cannot be read. An unusable snapshot is ignored without an error.
    pub fn load(&self, log: &dyn EventLog, experiment: &ExperimentId) -> Result<Option<Snapshot>, LogError> {
        let ignored = |why: &str| {
            tracing::warn!(path = %self.path(experiment).display(), why, "ignoring a snapshot");
            Ok(None)
        };
        let Some(bytes) = self.read(experiment) else { return Ok(None) };
        let body = bytes.split_at_checked(CHECKSUM_BYTES);
        let Some((_, body)) = body.filter(|(checksum, body)| blake3::hash(body).as_bytes() == checksum)
        else {
            return ignored("the snapshot is damaged");
        };
        let Some(snapshot) = Snapshot::decode(body) else {
            // Expected after every change of the rules, so it is not a warning.
            tracing::info!(%experiment, "ignoring a snapshot of older rules");
            return Ok(None);
        };
        let last = log.read_stream(experiment, snapshot.version.saturating_sub(1), 1)?;
        if !last.first().is_some_and(|last| snapshot.is_after(last)) {
            return ignored("the snapshot belongs to a different history");
        }
        Ok(Some(snapshot))
    }

    fn read(&self, experiment: &ExperimentId) -> Option<Vec<u8>> {
        let file = File::open(self.path(experiment)).ok()?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Deletes the snapshot of an experiment, if there is one and the folder is not read only.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn discard(&self, experiment: &ExperimentId) -> Result<(), StorageError> {
        if self.is_read_only {
            return Ok(());
        }
        let path = self.path(experiment);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StorageError::io("delete", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Builds the state of an experiment at the end of its stream, starting from its snapshot. Saves a new
    /// snapshot if more than `every` events followed the last one; a failure to save is a warning.
    ///
    /// # Errors
    /// If the log cannot be read or an event cannot be applied.
    pub fn resume(
        &self,
        log: &dyn EventLog,
        experiment: &ExperimentId,
        every: u64,
    ) -> Result<Replay, ResumeError> {
        let mut replay = self.load(log, experiment)?.map_or_else(Replay::new, Replay::resuming);
        let (from, mut last) = (replay.version(), None);
        loop {
            let mut page = log.read_stream(experiment, replay.version(), READ_EVENTS)?;
            for recorded in &page {
                replay.apply(recorded)?;
            }
            let is_last = page.len() < READ_EVENTS;
            last = page.pop().or(last);
            if is_last {
                break;
            }
        }
        if let Some(last) = last.filter(|_| replay.version() - from > every) {
            let snapshot = Snapshot::after(&last, replay.experiment().clone());
            if let Err(error) = self.save(&snapshot) {
                tracing::warn!(error = %chain(&error), %experiment, "failed to save a snapshot");
            }
        }
        Ok(replay)
    }
}
