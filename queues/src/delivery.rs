//! The workers' side: consumers, and the deliveries they hold until they settle them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use dissent_domain::event::Recorded;

use crate::error::BrokerError;
use crate::future::BoxFuture;

/// What travels beside a message from process to process, for tracing: names and values, such as `traceparent`. No rule
/// reads it, and a broker may lose it: what was proposed long before it is delivered has none, nor has what was proposed before
/// a restart. RabbitMQ carries up to 16 entries with names of up to 64 and values of up to 1024 bytes.
pub type MessageContext = BTreeMap<String, String>;

/// Where a consumer's deliveries come from. One implementation a broker.
pub(crate) trait Source<T>: Send {
    /// `Ready(None)` once closed. Taking nothing out of the queue unless it returns it makes
    /// `next` cancellation-safe.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<T>>;
    /// What could be had without waiting.
    fn try_next(&mut self) -> Option<T>;
    /// Why it ended, if not by a close.
    fn failure(&self) -> Option<BrokerError>;
}

/// How a worker is done with a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Processed: never again.
    Done,
    /// Failed: again later, or parked.
    Failed {
        /// Why.
        reason: String,
    },
    /// Not processed: again, as if it had not been delivered.
    Released,
}

/// Takes a delivery back. One implementation a broker.
pub(crate) trait Settle: Send + Sync {
    /// Done or failed, with the broker's word on it.
    fn settle(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<(), BrokerError>>;
    /// Released; never waits, as it is called on drop.
    fn release(self: Box<Self>);
}

/// A member of a group. Dropping it leaves the group; deliveries it handed out can still be settled.
pub struct Consumer {
    pub(crate) source: Box<dyn Source<Delivery>>,
}

impl Consumer {
    /// The next message of the group; waits while there is none or `prefetch` of them are unsettled. None
    /// once the broker closed or failed ([`failure`](Self::failure) tells which). Cancellation-safe. Needs
    /// a tokio runtime with its timer enabled.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|context| self.source.poll_next(context)).await
    }

    /// A message that can be had at once.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.source.try_next()
    }

    /// Why the messages ended, if they ended by an error and not by a close.
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

/// A durable event in a worker's hands. Settle it by [`ack`](Self::ack) or [`retry`](Self::retry);
/// dropping it gives it back like [`release`](Self::release).
pub struct Delivery {
    /// The event.
    pub event: Recorded,
    /// Which attempt this is: those that failed, as far as the broker remembers, and 1.
    pub attempt: u32,
    /// It may have been delivered before. False says that it was not, unless a crash hid it: rely on event
    /// ids, not on this, to do nothing twice.
    pub redelivered: bool,
    /// The context in which the event was proposed, as far as it is known.
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

    /// Done: call it when everything that follows from the event is durable.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker is gone: the event will be delivered again.
    pub async fn ack(self) -> Result<(), BrokerError> {
        self.settlement.settle(Outcome::Done).await
    }

    /// A failed attempt. The message comes again after a delay, or is parked with `reason` (cut to about a
    /// hundred bytes in the durable record) if that was the last attempt.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker is gone: the event will be delivered again.
    pub async fn retry(self, reason: &str) -> Result<(), BrokerError> {
        self.settlement.settle(Outcome::Failed { reason: reason.to_owned() }).await
    }

    /// Gives it back untouched, not counted as an attempt: on shutdown, or when it cannot be taken on now.
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

/// The duty to settle; released when dropped.
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
    /// Why the last one failed.
    pub reason: String,
}

/// Receives the parked messages of every group.
pub struct ParkedConsumer {
    pub(crate) source: Box<dyn Source<ParkedDelivery>>,
}

impl ParkedConsumer {
    /// The next parked message; none once the broker closed or failed. Cancellation-safe.
    pub async fn next(&mut self) -> Option<ParkedDelivery> {
        poll_fn(|context| self.source.poll_next(context)).await
    }

    /// A parked message that can be had at once.
    pub fn try_next(&mut self) -> Option<ParkedDelivery> {
        self.source.try_next()
    }

    /// Why the messages ended, if they ended by an error and not by a close.
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

/// A parked message in the hands of whoever records that it was given up. Dropped, it comes again.
pub struct ParkedDelivery {
    /// The message.
    pub parked: Parked,
    settlement: Settlement,
}

impl ParkedDelivery {
    pub(crate) fn new(parked: Parked, settle: Box<dyn Settle>) -> Self {
        Self { parked, settlement: Settlement(Some(settle)) }
    }

    /// Taken note of: call it when the event that says so is durable. The message can still be replayed by
    /// [`Broker::unpark`](crate::Broker::unpark).
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker is gone: it will be delivered again.
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
