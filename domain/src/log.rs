//! The interface of an event log. `storage` implements it, and the embedded broker of `queues` uses it. The
//! two crates do not depend on each other.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;

use crate::error::Cause;
use crate::event::{EventId, NewEvent, Recorded};
use crate::id::ExperimentId;

/// Condition of an append on the stream's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// No condition.
    Any,
    /// The stream has no event.
    NoStream,
    /// The last event of the stream has this version.
    Exact(u64),
}

/// Events to append together: all of them become durable, or none.
#[derive(Debug, Clone, PartialEq)]
pub struct Append {
    /// The stream.
    pub experiment: ExperimentId,
    /// The expected version; checked only if at least one event is new.
    pub expected: ExpectedVersion,
    /// The events, in order.
    pub events: Vec<NewEvent>,
}

/// A part of a log that can be damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPart {
    /// The record of the event at this position.
    Event(u64),
    /// Several events, or their number.
    Events,
    /// The first record, which says how the log is written.
    FirstRecord,
    /// The tail file, which holds the newest commit.
    TailFile,
    /// The index from event ids to positions.
    IdIndex,
    /// The index from experiments to positions.
    StreamIndex,
    /// The record of a subscription.
    Subscription,
    /// The files of the database.
    Database,
    /// A copy of the log, such as a backup or an archive.
    Copy,
}

/// An error of the log, by the action that is left to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The stream has another version. Read it and decide again.
    #[error("the stream of {experiment} has reached version {actual}, expected {expected:?}")]
    WrongVersion {
        /// The stream.
        experiment: ExperimentId,
        /// The expected version.
        expected: ExpectedVersion,
        /// The last version in the stream (0: no event).
        actual: u64,
    },
    /// The append is invalid; a retry cannot succeed.
    #[error("the append is invalid: {0}")]
    Invalid(String),
    /// A size, a number of events or the length of a name is out of range.
    #[error("{what} {value} is out of range: use {allowed}")]
    OutOfRange {
        /// The quantity.
        what: String,
        /// Its value.
        value: u64,
        /// The allowed values.
        allowed: String,
    },
    /// A newer version of dissent wrote the log.
    #[error(
        "the event log {log} has format {format}, this program reads formats up to {known}: \
         use the newer version of dissent that wrote it"
    )]
    NewerFormat {
        /// Path of the log.
        log: String,
        /// Its format.
        format: u16,
        /// The newest format that this program reads.
        known: u16,
    },
    /// The target of a backup exists already.
    #[error("{0} already exists: back up to a new folder")]
    Exists(String),
    /// The log is closing.
    #[error("the event log is closed")]
    Closed,
    /// Another process has the log open. Wait until it stops.
    #[error("the event log {0} is in use by another process: stop that process first")]
    InUse(String),
    /// The disk failed. No event of the append is acknowledged; open the log again.
    #[error("the event log cannot be used: {context}")]
    Io {
        /// The place or the operation that failed.
        context: String,
        /// The error of the system, if there is one.
        source: Option<Cause>,
    },
    /// The log is damaged.
    #[error("the event log is damaged: {reason}")]
    Corrupt {
        /// The damaged part.
        part: LogPart,
        /// The damage, its place and the way out.
        reason: String,
        /// The error of the decoder or of the database, if there is one.
        source: Option<Cause>,
    },
}

impl LogError {
    /// A [`LogError::Io`] that an error of the system caused.
    pub fn io(context: impl Into<String>, error: io::Error) -> Self {
        Self::Io { context: context.into(), source: Some(Cause::new(error)) }
    }

    /// A [`LogError::Corrupt`].
    pub fn corrupt(part: LogPart, reason: impl Into<String>) -> Self {
        Self::Corrupt { part, reason: reason.into(), source: None }
    }

    /// A [`LogError::Corrupt`] that another error shows.
    pub fn corrupt_because(
        part: LogPart,
        reason: impl Into<String>,
        error: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Corrupt { part, reason: reason.into(), source: Some(Cause::new(error)) }
    }
}

/// The recorded events of an append, once durable. For an id that the log already has, the earlier event is
/// returned.
pub type AppendFuture = Pin<Box<dyn Future<Output = Result<Vec<Recorded>, LogError>> + Send>>;

/// Called with the last durable position when it grows.
pub type AdvanceListener = Box<dyn Fn(u64) + Send + Sync>;

/// A durable, totally ordered log of events with one stream per experiment.
///
/// Reads see durable events only. All methods may be called from any thread; reads block on the disk.
pub trait EventLog: Send + Sync + 'static {
    /// Passes events to the writer. The future is ready when they are durable; dropping it does not cancel
    /// the append. Blocks while the writer's queue is full (back-pressure).
    fn append(&self, append: Append) -> AppendFuture;

    /// Reads the events after `position` (0: from the start), in order, at most `limit`. Returns fewer only
    /// at the end of the log.
    ///
    /// # Errors
    /// If the log is damaged or unreadable.
    fn read(&self, after: u64, limit: usize) -> Result<Vec<Recorded>, LogError>;

    /// Reads the events of one stream with a version above `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// If the log is damaged or unreadable.
    fn read_stream(
        &self,
        experiment: &ExperimentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, LogError>;

    /// Returns the event with this id; `None` if the log lacks it.
    ///
    /// # Errors
    /// If the log is damaged or unreadable.
    fn find(&self, id: EventId) -> Result<Option<Recorded>, LogError>;

    /// Returns every stream with its last version, in the order of names.
    ///
    /// # Errors
    /// If the log is damaged or unreadable.
    fn streams(&self) -> Result<Vec<(ExperimentId, u64)>, LogError>;

    /// Returns the last durable position; 0 if the log is empty.
    fn head(&self) -> u64;

    /// Registers a listener, called from the writer's thread: it must not block and must not append.
    fn on_advance(&self, listener: AdvanceListener);

    /// Stores a small record (≤ 8 KiB) of a subscription. It becomes durable with the next batch of events,
    /// or within a bounded time. The loss of the newest record only causes redelivery.
    ///
    /// # Errors
    /// If the record is too large or the log is closed.
    fn store_cursor(&self, group: &str, record: Vec<u8>) -> Result<(), LogError>;

    /// Returns the last record stored for this subscription.
    ///
    /// # Errors
    /// If the log is unreadable.
    fn load_cursor(&self, group: &str) -> Result<Option<Vec<u8>>, LogError>;

    /// Makes all earlier appends and cursors durable. Blocks.
    ///
    /// # Errors
    /// If the disk fails or the log is closed.
    fn flush(&self) -> Result<(), LogError>;
}
