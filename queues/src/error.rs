//! Errors between a worker and the broker, split by the caller's reaction.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dissent_domain::error::Cause;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::LogError;

use crate::rabbitmq::Holder;

/// The fault of a stream that is not one history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryFault {
    /// An event belongs to this other experiment.
    #[error("an event belongs to experiment {0}")]
    Foreign(ExperimentId),
    /// Two events have this version.
    #[error("two events have version {0}")]
    Twice(u64),
    /// The event of this version is missing, although many later ones arrived.
    #[error("event {0} is missing")]
    Missing(u64),
}

/// An error of the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The broker or its journal is closed or closing. Nothing was settled or decided: unsettled messages
    /// will be redelivered, and a proposal may be repeated after a restart.
    #[error("the broker is closed")]
    Closed,
    /// The log under the broker failed. The error of the log states whether a reopened log can help.
    #[error("the broker's event log failed")]
    Log(#[from] LogError),
    /// RabbitMQ is unavailable. The outcome of the operation is unknown. Try again later.
    #[error("RabbitMQ at {address} failed to {action}")]
    Unavailable {
        /// The operation.
        action: &'static str,
        /// The address, without the password.
        address: String,
        /// The error of the connection.
        source: Cause,
    },
    /// RabbitMQ did not respond in time. The outcome of the operation is unknown. Try again later.
    #[error("RabbitMQ at {address} did not {action} within {limit:?}")]
    Late {
        /// The operation.
        action: &'static str,
        /// The address, without the password.
        address: String,
        /// The limit.
        limit: Duration,
        /// The last error of the connection, if there was one.
        source: Option<Cause>,
    },
    /// RabbitMQ refused an event. The relay sends the event again.
    #[error("RabbitMQ refused event {position} for {key:?}")]
    Refused {
        /// Position of the event.
        position: u64,
        /// Its routing key.
        key: String,
    },
    /// RabbitMQ refused an operation for a lasting reason, such as a missing permission.
    #[error("RabbitMQ at {address} refused to {action}: {reason}; {way_out}")]
    RefusedByBroker {
        /// The operation.
        action: &'static str,
        /// The address, without the password.
        address: String,
        /// The reason in the words of RabbitMQ.
        reason: String,
        /// The way out.
        way_out: String,
    },
    /// Another server serves the prefix.
    #[error("prefix {prefix:?} is served by {holder}: stop that server, or choose another broker.prefix")]
    Served {
        /// The prefix of the queues.
        prefix: String,
        /// The other server.
        holder: Box<Holder>,
    },
    /// The server under this prefix speaks another protocol.
    #[error(
        "the server under this prefix has version {server_version} and protocol {server_protocol}, this program \
         speaks protocol {own}: use the same version for both, or choose another broker.prefix"
    )]
    OtherProtocol {
        /// Version of the server.
        server_version: String,
        /// Protocol of the server.
        server_protocol: u32,
        /// Protocol of this program.
        own: u32,
    },
    /// The prefix has no queues.
    #[error(
        "no queues under prefix {prefix:?}: no server has run yet, or broker.prefix differs from the server's"
    )]
    NoQueues {
        /// The prefix.
        prefix: String,
    },
    /// The system did not start a thread.
    #[error("failed to start the threads of the broker")]
    Threads(#[source] Cause),
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
    /// The experiment is leaving the broker.
    #[error("experiment {experiment} is being unloaded: wait until that is done")]
    Leaving {
        /// The experiment.
        experiment: ExperimentId,
    },
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
        "invalid history stream of {experiment}: {fault}; delete it on the server with `dissent queue forget` and restart"
    )]
    BrokenHistory {
        /// The experiment.
        experiment: ExperimentId,
        /// The contradiction or the gap.
        fault: HistoryFault,
    },
    /// A file of the TLS settings cannot be read.
    #[error("failed to read {path}")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: Cause,
    },
    /// An event or a proposal cannot be encoded.
    #[error("failed to encode {what}")]
    Encode {
        /// The kind of message.
        what: &'static str,
        /// The error of the encoder.
        source: Cause,
    },
    /// A dead letter does not name the queue that it came from.
    #[error("dead letter {id} names no queue to return to: drop it")]
    NoQueue {
        /// Id of the dead letter.
        id: String,
    },
    /// This build lacks a feature.
    #[error("{feature} is not in this build: build with the Cargo feature `{feature}`, or {instead}")]
    MissingFeature {
        /// The Cargo feature.
        feature: &'static str,
        /// The way out without the feature.
        instead: &'static str,
    },
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
        Self::ReadFile { path: path.to_owned(), source: Cause::new(source) }
    }

    /// The error for an event or a proposal that cannot be encoded.
    pub fn encode(what: &'static str, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Encode { what, source: Cause::new(error) }
    }
}
