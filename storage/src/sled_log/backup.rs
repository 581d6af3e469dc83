//! Backup of a log that is in use.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use dissent_domain::event::Recorded;
use dissent_domain::log::{EventLog, LogError};
use sled::{Batch, Tree};

use super::error::guarded;
use super::options::SledOptions;
use super::{SledLog, keys, open, record, streams};
use crate::modes::shared_folder_builder;

/// Beginning of the name of a backup's folder until the backup is complete.
pub const UNFINISHED_BACKUP: &str = ".backup-";
/// Limits of one write, in events and in bytes, to the copy.
const EVENTS_PER_WRITE: usize = 1024;
const BYTES_PER_WRITE: usize = 4 << 20;

impl SledLog {
    /// Writes a copy of all durable events to a new folder `to`, while the log is in use. The copy is
    /// compact, is checked while it is read, and opens as any log. Returns its last position.
    ///
    /// # Errors
    /// If `to` exists, the log is damaged, or the copy cannot be written. Then `to` does not exist.
    pub fn backup(&self, to: &Path) -> Result<u64, LogError> {
        let failed = |error: io::Error| LogError::io(format!("failed to back up to {}", to.display()), error);
        if to.try_exists().map_err(failed)? {
            return Err(LogError::Exists(to.display().to_string()));
        }
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(failed)?;
        let partial = shared_folder_builder().prefix(UNFINISHED_BACKUP).tempdir_in(parent).map_err(failed)?;
        let head = self.copy_to(partial.path())?;
        std::fs::rename(partial.path(), to).map_err(failed)?;
        // The folder was renamed: nothing is left to remove.
        let _moved = partial.keep();
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        Ok(head)
    }

    fn copy_to(&self, dir: &Path) -> Result<u64, LogError> {
        // Cursors first: they may lag behind the copied events but must not be ahead of them.
        let cursors = self.shared.cursors().records.clone();
        let head = self.head();
        let opened = open::open(dir, &SledOptions::default())?;
        let (tree, mut copy) = (opened.shared.reader.tree, opened.committer);
        let mut batch = Batch::default();
        for (name, record) in cursors {
            let key = keys::cursor(&name);
            batch.insert(key.as_slice(), record::frame(&key, &record));
        }
        copy.write_uncounted(batch)?;
        let mut chunk = Chunk::default();
        guarded(|| {
            self.shared.reader.scan(0, head, &mut |view| {
                chunk.push(view.to_recorded()?);
                if chunk.is_full() {
                    copy.write_uncounted(chunk.take(&tree)?)?;
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        copy.write_uncounted(chunk.take(&tree)?)?;
        copy.close(head)?;
        Ok(head)
    }
}

/// Events that are written to a copy together.
#[derive(Default)]
struct Chunk {
    events: Vec<Recorded>,
    bytes: usize,
}

impl Chunk {
    fn push(&mut self, recorded: Recorded) {
        self.bytes += recorded.event.body.len();
        self.events.push(recorded);
    }

    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_PER_WRITE || self.bytes >= BYTES_PER_WRITE
    }

    /// Takes the events as a batch of writes.
    fn take(&mut self, tree: &Tree) -> Result<Batch, LogError> {
        let events = std::mem::take(self).events;
        let mut batch = Batch::default();
        for (key, value) in record::encode(&events)? {
            batch.insert(&key, value);
        }
        for (key, value) in streams::update(tree, &events)? {
            batch.insert(key, value);
        }
        Ok(batch)
    }
}
