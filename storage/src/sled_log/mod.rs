//! The durable log.
//!
//! One thread writes. It gathers the waiting appends into a commit: one sled batch in one tree, which sled
//! applies as a whole or not at all. A commit is durable when three things are durable:
//!
//! - the batch, by sled's flush;
//! - the database file, by a sync of its own, because sled's flush does not reach the device;
//! - the high-water mark with a copy of the commit ([`tail`]).
//!
//! Only then are appends acknowledged, listeners called, and events readable. See [`keys`] and [`record`] for
//! the layout.

mod backup;
mod commit;
mod error;
mod group;
mod ids;
mod indices;
mod keys;
mod meta;
mod open;
mod options;
mod reader;
mod record;
mod salvage;
mod shared;
mod streams;
mod tail;
mod upgrade;
mod verify;
mod writer;

use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use dissent_domain::error::chain;
use dissent_domain::event::{EventId, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{AdvanceListener, Append, AppendFuture, EventLog, LogError};
use tokio::sync::oneshot;

pub use backup::UNFINISHED_BACKUP;
pub use options::SledOptions;
pub use record::EventView;
pub use salvage::Salvage;
pub use verify::{Finding, LogStat, VerifyReport};

use self::error::guarded;
use self::shared::Shared;
use self::writer::Command;
use crate::limits::{check_append, check_cursor};

/// The durable [`EventLog`]. Dropping it writes pending appends, then closes it.
pub struct SledLog {
    dir: PathBuf,
    shared: Arc<Shared>,
    commands: RwLock<Option<SyncSender<Command>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Held while the log is open: one process at a time.
    _lock: File,
}

impl SledLog {
    /// Opens the log in `dir`; creates it if it does not exist.
    ///
    /// # Errors
    /// `InUse` if another process has it open, `Io` if a file operation fails, `Invalid` if a newer program
    /// wrote it. `Corrupt` if it is damaged: acknowledged events are missing, or its files cannot be read.
    pub fn open(dir: impl AsRef<Path>, options: &SledOptions) -> Result<Self, LogError> {
        Self::open_with(dir.as_ref(), options, |_| ())
    }

    /// Opens a log. In tests, `prepare` makes its disk fail.
    fn open_with(
        dir: &Path,
        options: &SledOptions,
        prepare: impl FnOnce(&mut commit::Committer),
    ) -> Result<Self, LogError> {
        let mut opened = open::open(dir, options)?;
        prepare(&mut opened.committer);
        let (commands, queue) = sync_channel(options.queue_length.max(1));
        let shared = Arc::new(opened.shared);
        let writer = writer::spawn(Arc::clone(&shared), opened.committer, queue, options.clone())
            .map_err(|error| LogError::io("failed to start the writer", error))?;
        Ok(Self {
            dir: dir.to_owned(),
            shared,
            commands: RwLock::new(Some(commands)),
            writer: Mutex::new(Some(writer)),
            _lock: opened.lock,
        })
    }

    /// Returns the folder of the log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a process has the log in `dir` open.
    #[must_use]
    pub fn is_in_use(dir: &Path) -> bool {
        matches!(open::lock(dir), Err(LogError::InUse(_)))
    }

    /// Passes every durable event after `after` to `visit`, in order and without copying, until `visit`
    /// breaks.
    ///
    /// # Errors
    /// If the log is damaged or unreadable.
    pub fn scan_views(
        &self,
        after: u64,
        visit: &mut dyn FnMut(EventView<'_>) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        self.scan_fallible(after, &mut |view| Ok(visit(view)))
    }

    /// Passes owned events, otherwise as [`Self::scan_views`].
    ///
    /// # Errors
    /// If the log is damaged or unreadable.
    pub fn scan(
        &self,
        after: u64,
        visit: &mut dyn FnMut(Recorded) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        self.scan_fallible(after, &mut |view| Ok(visit(view.to_recorded()?)))
    }

    fn scan_fallible(
        &self,
        after: u64,
        visit: &mut dyn FnMut(EventView<'_>) -> Result<ControlFlow<()>, LogError>,
    ) -> Result<(), LogError> {
        // A panic of the visitor is not damage of the log: it is resumed outside the guard.
        let mut panicked = None;
        let outcome = guarded(|| {
            self.shared.reader.scan(after, self.head(), &mut |view| {
                catch_unwind(AssertUnwindSafe(|| visit(view))).unwrap_or_else(|panic| {
                    panicked = Some(panic);
                    Ok(ControlFlow::Break(()))
                })
            })
        });
        match panicked {
            Some(panic) => resume_unwind(panic),
            None => outcome,
        }
    }

    /// Writes pending appends, then rejects new ones. Reads still work.
    ///
    /// # Errors
    /// The error that stopped the writer, if one did.
    pub fn close(&self) -> Result<(), LogError> {
        let commands = self.commands.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(commands);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            self.shared
                .fail(&LogError::Io { context: "the writer thread panicked".to_owned(), source: None });
        }
        self.shared.failure().map_or(Ok(()), Err)
    }

    /// Sends the writer a command; waits while its queue is full.
    fn send(&self, command: Command) -> Result<(), LogError> {
        let commands = self.commands.read().unwrap_or_else(PoisonError::into_inner).clone();
        commands.and_then(|commands| commands.send(command).ok()).ok_or(LogError::Closed)
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(error = %chain(&error), dir = %self.dir.display(), "failed to close the event log");
        }
    }
}

impl EventLog for SledLog {
    fn append(&self, append: Append) -> AppendFuture {
        let (reply, recorded) = oneshot::channel();
        let sent = check_append(&append).and_then(|()| self.send(Command::Append { append, reply }));
        Box::pin(async move {
            sent?;
            recorded.await.unwrap_or(Err(LogError::Closed))
        })
    }

    fn read(&self, after: u64, limit: usize) -> Result<Vec<Recorded>, LogError> {
        let to = after.saturating_add(limit as u64).min(self.head());
        let mut events = Vec::with_capacity(usize::try_from(to.saturating_sub(after)).unwrap_or(0).min(4096));
        guarded(|| {
            self.shared.reader.scan(after, to, &mut |view| {
                events.push(view.to_recorded()?);
                Ok(ControlFlow::Continue(()))
            })
        })?;
        Ok(events)
    }

    fn read_stream(
        &self,
        experiment: &ExperimentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, LogError> {
        guarded(|| self.shared.reader.stream(experiment, after, limit, self.head()))
    }

    fn find(&self, id: EventId) -> Result<Option<Recorded>, LogError> {
        self.shared.find(id, self.head())
    }

    fn streams(&self) -> Result<Vec<(ExperimentId, u64)>, LogError> {
        let streams = self.shared.streams.read().unwrap_or_else(PoisonError::into_inner);
        Ok(streams.iter().map(|(name, version)| (name.clone(), *version)).collect())
    }

    fn head(&self) -> u64 {
        self.shared.head()
    }

    fn on_advance(&self, listener: AdvanceListener) {
        self.shared.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    fn store_cursor(&self, group: &str, record: Vec<u8>) -> Result<(), LogError> {
        check_cursor(group, &record)?;
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        let commands = self.commands.read().unwrap_or_else(PoisonError::into_inner);
        let commands = commands.as_ref().ok_or(LogError::Closed)?;
        let mut cursors = self.shared.cursors();
        cursors.records.insert(group.to_owned(), record);
        let first = cursors.dirty.is_empty();
        cursors.dirty.insert(group.to_owned());
        drop(cursors);
        // Only the first dirty cursor needs to wake the writer, which writes all of them. If the queue is
        // full, the writer is awake and writes them with its next commit.
        if first && let Err(TrySendError::Disconnected(_)) = commands.try_send(Command::CursorStored) {
            return Err(LogError::Closed);
        }
        Ok(())
    }

    fn load_cursor(&self, group: &str) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.shared.cursors().records.get(group).cloned())
    }

    fn flush(&self) -> Result<(), LogError> {
        let (reply, flushed) = sync_channel(1);
        self.send(Command::Flush(reply))?;
        flushed.recv().unwrap_or(Err(LogError::Closed))
    }
}

#[cfg(test)]
mod tests;
