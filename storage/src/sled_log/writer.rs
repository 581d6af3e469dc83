//! The writer thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dissent_domain::log::{Append, LogError};
use sled::Batch;

use super::commit::Committer;
use super::error::guarded;
use super::group::{Group, Reply};
use super::options::SledOptions;
use super::shared::Shared;
use super::{keys, record};

/// Maximum number of bytes of bodies in one commit. Larger commits would only increase the latency.
const COMMIT_BYTES_MAX: usize = 4 << 20;

/// A command to the writer.
pub(super) enum Command {
    Append {
        append: Append,
        reply: Reply,
    },
    /// A cursor waits to be written.
    CursorStored,
    /// Reply when everything before is durable, cursors included.
    Flush(SyncSender<Result<(), LogError>>),
}

/// Starts the writer. It ends when every sender of `queue` is dropped and the queue is empty.
pub(super) fn spawn(
    shared: Arc<Shared>,
    committer: Committer,
    queue: Receiver<Command>,
    options: SledOptions,
) -> io::Result<JoinHandle<()>> {
    let writer = Writer {
        shared,
        committer,
        queue,
        options,
        held: None,
        company: 1,
        last_commit: Duration::ZERO,
        cursors_due: None,
    };
    std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || writer.run())
}

struct Writer {
    shared: Arc<Shared>,
    committer: Committer,
    queue: Receiver<Command>,
    options: SledOptions,
    /// An append that exceeded the last commit.
    held: Option<Command>,
    /// Appends in the last commit: the next commit is likely to have the same number.
    company: usize,
    last_commit: Duration,
    /// Time at which stored cursors must be written even if no events come.
    cursors_due: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.next() {
                Ok(Command::Append { append, reply }) => self.commit_with(append, reply),
                Ok(Command::CursorStored) => {
                    self.cursors_due.get_or_insert_with(|| Instant::now() + self.options.cursor_delay_max);
                }
                Ok(Command::Flush(reply)) => {
                    let _gone = reply.send(self.write_cursors());
                }
                Err(RecvTimeoutError::Timeout) => {
                    // The log keeps the error and returns it to the next caller.
                    let _kept = self.write_cursors();
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.finish();
    }

    fn next(&mut self) -> Result<Command, RecvTimeoutError> {
        if let Some(command) = self.held.take() {
            return Ok(command);
        }
        match self.cursors_due {
            Some(due) => self.queue.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Gathers a commit that begins with this append, writes it and replies.
    fn commit_with(&mut self, append: Append, reply: Reply) {
        let shared = Arc::clone(&self.shared);
        let mut group = Group::new(&shared);
        group.add(append, reply);
        let flushes = self.gather(&mut group);
        let outcome = self.commit(&group);
        let head = shared.head();
        let advanced = outcome.is_ok() && !group.records.is_empty();
        group.reply(&outcome);
        if advanced {
            shared.announce(head);
        }
        for flush in flushes {
            let outcome = outcome.clone().and_then(|()| self.write_cursors());
            let _gone = flush.send(outcome);
        }
    }

    /// Adds waiting appends. Waits for the number of appends in the last commit: their callers are
    /// likely to append again. Returns the flush requests that arrived meanwhile.
    fn gather(&mut self, group: &mut Group<'_>) -> Vec<SyncSender<Result<(), LogError>>> {
        let mut flushes = Vec::new();
        let patience = self.options.linger_max.min(self.last_commit);
        let deadline = Instant::now() + patience;
        while group.records.len() < self.options.commit_events_max && group.body_bytes < COMMIT_BYTES_MAX {
            let next = self.queue.try_recv().ok().or_else(|| {
                let expected = group.appends() < self.company;
                let left = deadline.saturating_duration_since(Instant::now());
                (expected && flushes.is_empty()).then(|| self.queue.recv_timeout(left).ok()).flatten()
            });
            match next {
                None => break,
                Some(Command::Append { append, reply }) => {
                    if group.records.len() + append.events.len() > self.options.commit_events_max {
                        self.held = Some(Command::Append { append, reply });
                        break;
                    }
                    group.add(append, reply);
                }
                Some(Command::CursorStored) => {}
                Some(Command::Flush(reply)) => flushes.push(reply),
            }
        }
        self.company = group.appends();
        flushes
    }

    fn commit(&mut self, group: &Group<'_>) -> Result<(), LogError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        if group.records.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let mut encoded = group.encode()?;
        self.take_cursors(&mut encoded.batch);
        let position = encoded.mark.position;
        self.committer.commit(encoded).inspect_err(|error| self.shared.fail(error))?;
        // Index the ids before the head advances, so that readers of an announced event find it.
        let new = group.records.iter().map(|recorded| (recorded.event.id, recorded.position));
        let indexed = guarded(|| self.shared.ids.add(&self.shared.reader.tree, new));
        indexed.inspect_err(|error| self.shared.fail(error))?;
        self.shared.advance(position, &group.versions);
        self.last_commit = began.elapsed();
        Ok(())
    }

    fn write_cursors(&mut self) -> Result<(), LogError> {
        if let Some(failure) = self.shared.failure() {
            self.cursors_due = None;
            return Err(failure);
        }
        let mut batch = Batch::default();
        if self.take_cursors(&mut batch) == 0 {
            return Ok(());
        }
        self.committer.write_uncounted(batch).inspect_err(|error| self.shared.fail(error))
    }

    /// Moves the cursors that are newer than the disk into a batch; returns how many.
    fn take_cursors(&mut self, batch: &mut Batch) -> usize {
        self.cursors_due = None;
        let mut cursors = self.shared.cursors();
        let dirty = std::mem::take(&mut cursors.dirty);
        for name in &dirty {
            if let Some(record) = cursors.records.get(name) {
                let key = keys::cursor(name);
                let value = record::frame(&key, record);
                batch.insert(key, value);
            }
        }
        dirty.len()
    }

    fn finish(mut self) {
        if self.write_cursors().is_err() {
            return;
        }
        let position = self.shared.head();
        if let Err(error) = self.committer.close(position) {
            self.shared.fail(&error);
        }
    }
}
