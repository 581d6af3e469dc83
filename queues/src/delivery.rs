//! The workers' side: consumers, and their unsettled deliveries.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use dissent_domain::event::Recorded;

use crate::error::BrokerError;
use crate::future::BoxFuture;

/// Tracing context beside a message: names and values, such as `traceparent`. No rule reads it.
///
/// A broker may lose it: events that were proposed before a restart or long before their delivery have none.
/// RabbitMQ carries up to 16 entries, with names of up to 64 and values of up to 1024 bytes.
pub type MessageContext = BTreeMap<String, String>;

/// The source of a consumer's deliveries; one implementation for each broker.
pub(crate) trait Source<T>: Send {
    /// Returns `Ready(None)` once closed. It takes a message out of the queue only when it returns it, so
    /// `next` is cancellation-safe.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<T>>;
    /// Returns a message that is available without waiting.
    fn try_next(&mut self) -> Option<T>;
    /// Returns the error that ended the source; `None` if it was closed.
    fn failure(&self) -> Option<BrokerError>;
}

/// The outcome of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Processed: never redelivered.
    Done,
    /// Failed: retried later, or parked.
    Failed {
        /// The reason of the failure.
        reason: String,
    },
    /// Not processed: redelivered, not counted as an attempt.
    Released,
}

/// Settles a delivery; one implementation for each broker.
pub(crate) trait Settle: Send + Sync {
    /// Settles the delivery as done or failed.
    fn settle(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<(), BrokerError>>;
    /// Releases the delivery. Never waits, because drop calls it.
    fn release(self: Box<Self>);
}

/// A member of a group. Dropping it leaves the group; its deliveries can still be settled.
pub struct Consumer {
    pub(crate) source: Box<dyn Source<Delivery>>,
}

impl Consumer {
    /// Returns the next message. Waits while the queue is empty or `prefetch` deliveries are unsettled.
    /// Returns `None` after the broker closed or failed; [`failure`](Self::failure) distinguishes the two.
    ///
    /// Cancellation-safe. Needs a tokio runtime with its timer enabled.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|context| self.source.poll_next(context)).await
    }

    /// Returns a message that is available without waiting.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.source.try_next()
    }

    /// Returns the error that ended the messages; `None` if the broker closed.
    #[must_use]
    pub fn failure(&self) -> Option<BrokerError> {
        self.source.failure()
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}

/// A durable event, delivered to a worker. Settle it by [`ack`](Self::ack) or [`retry`](Self::retry);
/// dropping it is a [`release`](Self::release).
pub struct Delivery {
    /// The event.
    pub event: Recorded,
    /// Number of this attempt, from 1: one more than the recorded failures.
    pub attempt: u32,
    /// Whether it may have been delivered before. A crash can hide an earlier delivery: use event ids to
    /// process nothing twice.
    pub redelivered: bool,
    /// The context in which the event was proposed, if the broker still has it.
    pub context: MessageContext,
    settlement: Settlement,
}

impl Delivery {
    pub(crate) fn new(event: Recorded, attempt: u32, redelivered: bool, settle: Box<dyn Settle>) -> Self {
        let context = MessageContext::new();
        Self { event, attempt, redelivered, context, settlement: Settlement(Some(settle)) }
    }

    pub(crate) fn with_context(self, context: MessageContext) -> Self {
        Self { context, ..self }
    }

    /// Acknowledges the message. Call it when everything that follows from the event is durable.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker is closed: the event will be redelivered.
    pub async fn ack(self) -> Result<(), BrokerError> {
        self.settlement.settle(Outcome::Done).await
    }

    /// Reports a failed attempt. The message is retried after a delay, or parked with `reason` after the last
    /// attempt. The durable record keeps about a hundred bytes of the reason.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker is closed: the event will be redelivered.
    pub async fn retry(self, reason: &str) -> Result<(), BrokerError> {
        self.settlement.settle(Outcome::Failed { reason: reason.to_owned() }).await
    }

    /// Gives it back, not counted as an attempt: on shutdown, or when it cannot be processed now.
    pub fn release(self) {}
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("position", &self.event.position)
            .field("event_type", &self.event.event.event_type)
            .field("attempt", &self.attempt)
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

/// The obligation to settle; a drop releases.
struct Settlement(Option<Box<dyn Settle>>);

impl Settlement {
    async fn settle(mut self, outcome: Outcome) -> Result<(), BrokerError> {
        match self.0.take() {
            Some(settle) => settle.settle(outcome).await,
            None => Ok(()),
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if let Some(settle) = self.0.take() {
            settle.release();
        }
    }
}

/// A message that used up its attempts.
#[derive(Debug, Clone, PartialEq)]
pub struct Parked {
    /// The event.
    pub event: Recorded,
    /// The group that could not process it.
    pub group: String,
    /// Attempts that failed.
    pub attempts: u32,
    /// The reason of the last failure.
    pub reason: String,
}

/// Receives the parked messages of an experiment.
pub struct ParkedConsumer {
    pub(crate) source: Box<dyn Source<ParkedDelivery>>,
}

impl ParkedConsumer {
    /// Returns the next parked message; `None` once the broker closed or failed. Cancellation-safe.
    pub async fn next(&mut self) -> Option<ParkedDelivery> {
        poll_fn(|context| self.source.poll_next(context)).await
    }

    /// Returns a parked message that is available without waiting.
    pub fn try_next(&mut self) -> Option<ParkedDelivery> {
        self.source.try_next()
    }

    /// Returns the error that ended the messages; `None` if the broker closed.
    #[must_use]
    pub fn failure(&self) -> Option<BrokerError> {
        self.source.failure()
    }
}

impl fmt::Debug for ParkedConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParkedConsumer").finish_non_exhaustive()
    }
}

/// A parked message, delivered to the recorder of its failure. A drop releases it.
pub struct ParkedDelivery {
    /// The message.
    pub parked: Parked,
    settlement: Settlement,
}

impl ParkedDelivery {
    pub(crate) fn new(parked: Parked, settle: Box<dyn Settle>) -> Self {
        Self { parked, settlement: Settlement(Some(settle)) }
    }

    /// Acknowledges the parking. Call it when the event that records it is durable.
    /// [`Broker::unpark`](crate::Broker::unpark) can still replay the message.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker is closed: the parked message will be redelivered.
    pub async fn ack(self) -> Result<(), BrokerError> {
        self.settlement.settle(Outcome::Done).await
    }
}

impl fmt::Debug for ParkedDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParkedDelivery")
            .field("group", &self.parked.group)
            .field("position", &self.parked.event.position)
            .finish_non_exhaustive()
    }
}
