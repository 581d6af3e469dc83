//! Errors between a worker and the broker, by what the caller can do about them.

use dissent_domain::log::LogError;

/// An error of the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The broker, or the journal behind it, is closed or closing. Nothing was settled or decided: unsettled
    /// messages will be redelivered, and a proposal may be repeated after a restart.
    #[error("the broker is closed")]
    Closed,
    /// The log under the broker failed. The log's error says whether opening it again can help.
    #[error("the broker's event log failed: {0}")]
    Log(#[from] LogError),
    /// RabbitMQ is away, or did not answer in time. The outcome of the operation is unknown. Try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The call can never succeed as it is.
    #[error("{0}")]
    Invalid(String),
}
