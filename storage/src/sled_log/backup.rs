//! A copy of a log that is in use.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use dissent_domain::log::{EventLog, LogError};
use sled::Batch;

use super::reader::guarded;
use super::record::EventView;
use super::{SledLog, SledOptions, keys, open, record};

/// Events and bytes of one write to the copy.
const EVENTS_PER_WRITE: usize = 1024;
const BYTES_PER_WRITE: usize = 4 << 20;

impl SledLog {
    /// Writes a copy of everything that is durable now to a new directory `to`, while the log goes on.
    /// The copy is compact, checked as it is read, and opens like any log. Returns its last position.
    ///
    /// # Errors
    /// If `to` exists, the log is damaged, or the disk refuses; `to` does not exist then.
    pub fn backup(&self, to: &Path) -> Result<u64, LogError> {
        let failed =
            |error: io::Error| LogError::Io(format!("failed to back up to {}: {error}", to.display()));
        if to.try_exists().map_err(failed)? {
            return Err(LogError::Invalid(format!(
                "{} exists: a backup needs a new directory",
                to.display()
            )));
        }
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(failed)?;
        let partial = tempfile::Builder::new().prefix(".backup-").tempdir_in(parent).map_err(failed)?;
        let head = self.copy_to(partial.path())?;
        std::fs::rename(partial.path(), to).map_err(failed)?;
        // It is where it belongs: nothing is left to remove.
        let _moved = partial.keep();
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        Ok(head)
    }

    fn copy_to(&self, dir: &Path) -> Result<u64, LogError> {
        // Cursors first: they may then lag behind the copied events, never run ahead of them.
        let cursors = self.shared.cursors().records.clone();
        let head = self.head();
        let mut copy = open::open(dir, &SledOptions::default())?.committer;
        let mut chunk = Chunk::default();
        for (name, record) in cursors {
            let key = keys::cursor(&name);
            chunk.batch.insert(key.as_slice(), record::frame(&key, &record));
        }
        guarded(|| {
            self.shared.reader.scan(0, head, &mut |view| {
                chunk.push(&view)?;
                if chunk.events >= EVENTS_PER_WRITE || chunk.bytes >= BYTES_PER_WRITE {
                    copy.write_uncounted(std::mem::take(&mut chunk).batch)?;
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        copy.write_uncounted(chunk.batch)?;
        copy.close(head)?;
        Ok(head)
    }
}

#[derive(Default)]
struct Chunk {
    batch: Batch,
    events: usize,
    bytes: usize,
}

impl Chunk {
    fn push(&mut self, view: &EventView<'_>) -> Result<(), LogError> {
        let recorded = view.to_recorded()?;
        for (key, value) in record::encode(&recorded)? {
            self.batch.insert(&key, value);
        }
        let position = recorded.position.to_be_bytes();
        self.batch.insert(&keys::id(recorded.event.id), &position);
        self.batch.insert(keys::stream(&recorded.experiment, recorded.version), &position);
        self.events += 1;
        self.bytes += view.body.len();
        Ok(())
    }
}
