//! What can go wrong between a worker and the broker, split by what the caller can do about it.

use dissent_domain::log::LogError;

/// An error of the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The broker, or the journal behind it, is gone or going. Nothing was settled or decided: what was
    /// in hand will be delivered again, and a proposal may be made again after a restart.
    #[error("the broker is closed")]
    Closed,
    /// The log under the broker failed; its own error says whether opening it again can help.
    #[error("the broker's event log failed: {0}")]
    Log(#[from] LogError),
    /// RabbitMQ is away, or did not answer in time: nothing is known of what was asked for. Try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The call can never succeed as it is.
    #[error("{0}")]
    Invalid(String),
}
