//! Events as messages, and the consumers of the groups that they are delivered to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use dissent_domain::event::Recorded;
use lapin::message::Delivery as AmqpDelivery;
use tokio::sync::oneshot;

use super::context::{add_context, context_of};
use super::headers::{ATTEMPT, number_header};
use super::queue_consumer::{Decoder, Item, Lease, Member, QueueConsumer, Settled};
use super::topology::{Topology, routing_key};
use super::window::Message;
use super::{parked, wire};
use crate::backoff::Backoff;
use crate::broker::Subscription;
use crate::delivery::{Delivery, MessageContext, Outcome, Settle, Source};
use crate::error::BrokerError;
use crate::future::BoxFuture;

/// An event in a group's queue.
#[derive(Debug, Clone)]
pub(super) struct EventMessage {
    pub event: Recorded,
    pub attempt: u32,
    pub context: MessageContext,
}

/// Decodes the messages of a group's queue.
pub(super) struct EventDecoder {
    pub group: String,
    pub delivery_limit: u32,
    pub retry_delay: Duration,
    bytes_max: usize,
}

impl EventDecoder {
    pub(super) fn of(subscription: &Subscription, bytes_max: usize) -> Self {
        Self {
            group: subscription.group.clone(),
            delivery_limit: subscription.delivery_limit,
            retry_delay: subscription.retry_delay,
            bytes_max,
        }
    }
}

impl Decoder for EventDecoder {
    type Message = EventMessage;
    const NAME: &'static str = "event";

    fn decode(&self, delivery: &AmqpDelivery) -> Result<EventMessage, String> {
        let event = wire::decode_event(&delivery.data, self.bytes_max)?;
        let headers = delivery.properties.headers().as_ref();
        let attempt = number_header(headers, ATTEMPT).and_then(|attempt| u32::try_from(attempt).ok());
        Ok(EventMessage { event, attempt: attempt.unwrap_or(1).max(1), context: context_of(headers) })
    }
}

/// Returns the message of an event, routed to all bound queues.
pub(super) fn event_message(
    event: &Recorded,
    exchange: String,
    context: &MessageContext,
) -> Result<Message, BrokerError> {
    let body = wire::encode_event(event)?;
    let (key, id) = (routing_key(event), event.event.id.to_string());
    let message = Message { exchange, key, mandatory: false, id, headers: Default::default(), body };
    Ok(with_headers(message, event, 1, context))
}

/// Returns the message of an event for one group. `id` distinguishes it from other messages of the event.
pub(super) fn group_message(
    queue: &str,
    id: String,
    event: &Recorded,
    attempt: u32,
    context: &MessageContext,
) -> Result<Message, BrokerError> {
    let message = Message::to_queue(queue, id, wire::encode_event(event)?);
    Ok(with_headers(message, event, attempt, context))
}

fn with_headers(message: Message, event: &Recorded, attempt: u32, context: &MessageContext) -> Message {
    let message = message
        .with_number("position", event.position)
        .with_number("version", event.version)
        .with_text("experiment", event.experiment.as_str())
        .with_number(ATTEMPT, u64::from(attempt));
    let message = match event.event.causation {
        Some(causation) => message.with_text("causation", &causation.to_string()),
        None => message,
    };
    add_context(message, context)
}

/// A member of a group.
pub(super) struct GroupSource {
    member: Member<EventDecoder>,
}

impl GroupSource {
    pub(super) fn new(member: Member<EventDecoder>) -> Self {
        Self { member }
    }

    fn delivery(&self, item: Item<EventMessage>) -> Delivery {
        let Item { key, message, redelivered } = item;
        let EventMessage { event, attempt, context } = message;
        let lease = Lease::new(self.member.consumer(), key);
        let (of_event, of_context) = (event.clone(), context.clone());
        let unsettled = UnsettledEvent { lease, event, attempt, context };
        Delivery::new(of_event, attempt, redelivered || attempt > 1, Box::new(unsettled))
            .with_context(of_context)
    }
}

impl Source<Delivery> for GroupSource {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.member.poll_next(context).map(|item| item.map(|item| self.delivery(item)))
    }

    fn try_next(&mut self) -> Option<Delivery> {
        self.member.try_next().map(|item| self.delivery(item))
    }

    fn failure(&self) -> Option<BrokerError> {
        self.member.consumer().shared().failure()
    }
}

/// The obligation to settle one delivery.
struct UnsettledEvent {
    lease: Lease<EventDecoder>,
    event: Recorded,
    attempt: u32,
    context: MessageContext,
}

impl Settle for UnsettledEvent {
    fn settle(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<(), BrokerError>> {
        if self.lease.shared().is_stopping() {
            return Box::pin(std::future::ready(Err(BrokerError::Closed)));
        }
        match outcome {
            Outcome::Done => self.lease.settle(Settled::Done),
            Outcome::Released => self.lease.settle(Settled::Released),
            Outcome::Failed { reason } => return Box::pin(fail(*self, reason)),
        }
        Box::pin(std::future::ready(Ok(())))
    }

    /// Dropping the lease releases the message.
    fn release(self: Box<Self>) {}
}

/// Publishes a replacement of a failed message, then acknowledges the message itself. A task of the broker
/// does it, because the caller may be cancelled.
async fn fail(unsettled: UnsettledEvent, reason: String) -> Result<(), BrokerError> {
    let (done, outcome) = oneshot::channel();
    let runtime = unsettled.lease.shared().runtime.clone();
    runtime.spawn(async move {
        let replaced = replace(&unsettled, &reason).await;
        if replaced.is_ok() {
            unsettled.lease.settle(Settled::Replaced);
        }
        // The caller may have stopped waiting.
        let _gone = done.send(replaced);
    });
    outcome.await.map_err(|_| BrokerError::Closed)?
}

async fn replace(unsettled: &UnsettledEvent, reason: &str) -> Result<(), BrokerError> {
    let (consumer, shared) = (unsettled.lease.consumer(), unsettled.lease.shared());
    let decoder = consumer.decoder();
    if unsettled.attempt >= decoder.delivery_limit {
        let message = parked::message(shared, &decoder.group, &unsettled.event, unsettled.attempt, reason)?;
        shared.publisher.publish(message).await?;
        shared.counters.parked.fetch_add(1, Ordering::AcqRel);
        return Ok(());
    }
    let attempt = unsettled.attempt.saturating_add(1);
    let id = format!("{}/{attempt}", unsettled.event.event.id);
    let message = group_message(consumer.queue(), id, &unsettled.event, attempt, &unsettled.context)?;
    let delay = Backoff::new(decoder.retry_delay, shared.options.retry_delay_max).after(unsettled.attempt);
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    match Topology::retry_delay(delay_ms, shared.retry_delay_max_ms()) {
        0 => shared.publisher.publish(message).await,
        delay_ms => {
            let message = Message { exchange: shared.topology.retry(delay_ms), ..message };
            shared.publisher.publish_delayed(message, delay_ms).await
        }
    }
}

/// The queue consumer of a group.
pub(super) type GroupConsumer = Arc<QueueConsumer<EventDecoder>>;
