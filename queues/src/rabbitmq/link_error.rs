//! The error of a channel or a connection.

use std::time::Duration;

use crate::error::BrokerError;

/// An error of a channel. The caller opens another channel.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
    #[error("no response within {0:?}")]
    Late(Duration),
    #[error("the connection was lost")]
    Lost,
    #[error("the lock of the server is held by {0}")]
    Locked(String),
    #[error("RabbitMQ ended the consumer")]
    Cancelled,
    #[error("the queue {0:?} does not exist yet: the server declares it")]
    NoQueue(String),
    #[error("no queue took the message for {0:?}: a queue or a binding was deleted")]
    Unrouted(String),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}
