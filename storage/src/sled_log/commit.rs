//! Durable commits.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use dissent_domain::error::Cause;
use dissent_domain::log::LogError;
use sled::{Batch, Db};

use super::error::{guarded, io_error, read_error};
use super::group::Encoded;
use super::tail::{Mark, Tail};

/// Writes commits, one after another. See [`super::tail`] for the order of writes and why it is safe.
pub(super) struct Committer {
    db: Db,
    /// A second handle of sled's file: sled's own flush does not reach the device.
    db_file: File,
    tail: TailThread,
}

impl Committer {
    pub(super) fn new(db: Db, dir: &Path, tail: Tail) -> io::Result<Self> {
        let db_file = File::options().read(true).write(true).open(dir.join("db"))?;
        Ok(Self { db, db_file, tail: TailThread::spawn(tail)? })
    }

    /// Returns when the commit is durable.
    pub(super) fn commit(&mut self, encoded: Encoded) -> Result<(), LogError> {
        self.try_commit(encoded).map_err(final_error)
    }

    fn try_commit(&self, encoded: Encoded) -> Result<(), LogError> {
        let Encoded { batch, mark, redo } = encoded;
        let Some(redo) = redo else {
            self.write(batch)?;
            self.tail.begin(mark, Vec::new()).map_err(io_error)?;
            return self.tail.finish().map_err(io_error);
        };
        self.tail.begin(mark, redo).map_err(io_error)?;
        let database = self.write(batch);
        // Wait for the tail in any case: its outcome belongs to this commit.
        let tail = self.tail.finish().map_err(io_error);
        database.and(tail)
    }

    /// Writes cursors, which the high-water mark does not count.
    pub(super) fn write_uncounted(&mut self, batch: Batch) -> Result<(), LogError> {
        self.write(batch).map_err(final_error)
    }

    fn write(&self, batch: Batch) -> Result<(), LogError> {
        guarded(|| {
            self.db.apply_batch(batch).map_err(read_error)?;
            self.db.flush().map_err(read_error)
        })?;
        self.db_file.sync_data().map_err(io_error)
    }

    /// Closes the log with both marks at `position`.
    pub(super) fn close(self, position: u64) -> Result<(), LogError> {
        let settled = self.tail.stop().and_then(|mut tail| tail.settle(Mark { base: position, position }));
        settled.map_err(|error| LogError::io("failed to close the log", error))
    }

    #[cfg(test)]
    pub(super) fn break_database_sync(&mut self) {
        // A device that cannot be synced.
        self.db_file = File::open("/dev/null").unwrap();
    }

    #[cfg(test)]
    pub(super) fn break_tail(&mut self) {
        let (requests, _) = sync_channel(1);
        self.tail.requests = requests;
    }
}

/// The tail file, on a thread of its own, so that its sync runs beside the database's.
struct TailThread {
    requests: SyncSender<(Mark, Vec<u8>)>,
    outcomes: Receiver<io::Result<()>>,
    thread: JoinHandle<Tail>,
}

impl TailThread {
    fn spawn(mut tail: Tail) -> io::Result<Self> {
        let (requests, queue) = sync_channel::<(Mark, Vec<u8>)>(1);
        let (finished, outcomes) = sync_channel(1);
        let thread = std::thread::Builder::new().name("log-tail".to_owned()).spawn(move || {
            for (mark, redo) in queue {
                if finished.send(tail.write(mark, &redo)).is_err() {
                    break;
                }
            }
            tail
        })?;
        Ok(Self { requests, outcomes, thread })
    }

    fn begin(&self, mark: Mark, redo: Vec<u8>) -> io::Result<()> {
        self.requests.send((mark, redo)).map_err(|_| stopped())
    }

    fn finish(&self) -> io::Result<()> {
        self.outcomes.recv().unwrap_or_else(|_| Err(stopped()))
    }

    fn stop(self) -> io::Result<Tail> {
        drop(self.requests);
        self.thread.join().map_err(|_| stopped())
    }
}

/// Syncs sled's file to the device, because sled's own flush does not reach the device.
pub(super) fn sync_database(dir: &Path) -> io::Result<()> {
    File::options().write(true).open(dir.join("db"))?.sync_all()
}

fn stopped() -> io::Error {
    io::Error::other("the thread that writes the tail file has stopped")
}

/// The error of a failed write, after which the log rejects every write.
fn final_error(error: LogError) -> LogError {
    let source = if let LogError::Io { source, .. } = error { source } else { Some(Cause::new(error)) };
    let context = "a write failed, and the log rejects writes until it is opened again".to_owned();
    LogError::Io { context, source }
}
