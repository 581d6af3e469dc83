//! Errors between a worker and the broker, split by the caller's reaction.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::LogError;

/// An error of the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The broker or its journal is closed or closing. Nothing was settled or decided: unsettled messages
    /// will be redelivered, and a proposal may be repeated after a restart.
    #[error("the broker is closed")]
    Closed,
    /// The log under the broker failed. The error of the log states whether a reopened log can help.
    #[error("the broker's event log failed: {0}")]
    Log(#[from] LogError),
    /// RabbitMQ is unavailable or did not answer in time. The outcome of the operation is unknown. Try again
    /// later.
    #[error("{0}")]
    Unavailable(String),
    /// An option, a field or a size is out of range.
    #[error("{what} {value} is out of range: use {allowed}")]
    OutOfRange {
        /// The option or field, with its owner.
        what: String,
        /// Its value.
        value: String,
        /// The allowed values.
        allowed: String,
    },
    /// A name is not allowed.
    #[error("{what} {name:?} is not allowed: use {allowed}")]
    InvalidName {
        /// The kind of name.
        what: &'static str,
        /// The name.
        name: String,
        /// The allowed names.
        allowed: String,
    },
    /// The URL of RabbitMQ is invalid.
    #[error("invalid RabbitMQ URL: {reason}")]
    InvalidUrl {
        /// The reason; it never contains the password.
        reason: String,
    },
    /// A subscription differs from an earlier one of its group in more than the prefetch.
    #[error(
        "settings differ from those of group {group:?}: use the same experiment, event types, limit and delay"
    )]
    DifferentSettings {
        /// The group.
        group: String,
    },
    /// The operation needs the server: a worker of RabbitMQ has no log and no journal.
    #[error("the operation needs the server: a worker has no log and no journal")]
    ServerOnly,
    /// The proposals have a consumer already.
    #[error("the proposals already have a consumer: use one journal")]
    ProposalsTaken,
    /// An event cannot be replayed to a group. `reason` states whether a retry can help.
    #[error("event {position} cannot be replayed to group {group:?}: {reason}")]
    NotReplayable {
        /// The group.
        group: String,
        /// Position of the event.
        position: u64,
        /// The reason.
        reason: String,
    },
    /// A message is larger than RabbitMQ's limit.
    #[error(
        "message of {bytes} bytes is too large for RabbitMQ: use at most {bytes_max} or raise message_bytes_max"
    )]
    TooLarge {
        /// The size of its body.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The stream of an experiment is not one history.
    #[error(
        "invalid history stream of {experiment}: {reason}; delete it on the server with `dissent queue forget` and restart"
    )]
    BrokenHistory {
        /// The experiment.
        experiment: ExperimentId,
        /// The contradiction or the gap.
        reason: String,
    },
    /// A file of the TLS settings cannot be read.
    #[error("failed to read {path}")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: SystemError,
    },
    /// The call is invalid for another reason; a retry cannot help.
    #[error("{0}")]
    Invalid(String),
}

impl BrokerError {
    pub(crate) fn out_of_range(
        what: impl Into<String>,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Self {
        Self::OutOfRange { what: what.into(), value: value.to_string(), allowed: allowed.into() }
    }

    pub(crate) fn read_file(path: &Path, source: io::Error) -> Self {
        Self::ReadFile { path: path.to_owned(), source: SystemError(Arc::new(source)) }
    }
}

/// A shared error of the system. Two errors are equal if their kind and their text are equal.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct SystemError(Arc<io::Error>);

impl PartialEq for SystemError {
    fn eq(&self, other: &Self) -> bool {
        self.0.kind() == other.0.kind() && self.to_string() == other.to_string()
    }
}

impl Eq for SystemError {}
