//! Parked messages: they used up their attempts, and stay in a queue until their parking is acknowledged.

use std::sync::Arc;
use std::task::{Context, Poll};

use dissent_domain::event::Recorded;
use lapin::message::Delivery as AmqpDelivery;
use lapin::types::{AMQPValue, FieldTable, LongString};

use super::headers::{ATTEMPT, cut, number_header, text_header};
use super::queue_consumer::{Decoder, Item, Lease, Member, Settled};
use super::shared::Shared;
use super::topology::Topology;
use super::window::Message;
use super::wire;
use crate::delivery::{Outcome, Parked, ParkedDelivery, Settle, Source};
use crate::error::BrokerError;
use crate::future::BoxFuture;
use crate::random::random;

/// The reason of messages that RabbitMQ itself parks.
pub(super) const CRASH_REASON: &str =
    "the event was redelivered too often without a result: it may crash its workers";

/// Returns the message that parks an event for a group.
pub(super) fn message(
    shared: &Shared,
    group: &str,
    event: &Recorded,
    attempts: u32,
    reason: &str,
) -> Result<Message, BrokerError> {
    let body = wire::encode_event(event)?;
    // Several groups may park the same event, and one group may park it again after a replay.
    let id = format!("{}/{:016x}", event.event.id, random());
    Ok(Message::to_queue(&shared.topology.parked(&event.experiment), id, body)
        .with_text("group", group)
        .with_text("experiment", event.experiment.as_str())
        .with_number("position", event.position)
        .with_number(ATTEMPT, u64::from(attempts))
        .with_text("reason", cut(reason)))
}

/// Decodes the messages of the queue of parked messages.
pub(super) struct ParkedDecoder {
    pub topology: Topology,
    pub bytes_max: usize,
}

impl Decoder for ParkedDecoder {
    type Message = Parked;
    const NAME: &'static str = "parked";

    fn decode(&self, delivery: &AmqpDelivery) -> Result<Parked, String> {
        read(&self.topology, delivery, self.bytes_max)
    }

    /// A message that RabbitMQ itself parked still has the event's id, which several groups share.
    fn key(&self, delivery: &AmqpDelivery) -> Option<String> {
        let group = group_of(&self.topology, delivery.properties.headers().as_ref())?;
        Some(format!("{group}/{}", delivery.properties.message_id().as_ref()?))
    }
}

/// Reads a parked message, parked by this program or by RabbitMQ itself.
pub(super) fn read(topology: &Topology, delivery: &AmqpDelivery, bytes_max: usize) -> Result<Parked, String> {
    let event = wire::decode_event(&delivery.data, bytes_max)?;
    let headers = delivery.properties.headers().as_ref();
    let group = group_of(topology, headers).ok_or("the message names no group")?;
    let attempts = number_header(headers, ATTEMPT).and_then(|attempts| u32::try_from(attempts).ok());
    let reason = text_header(headers, "reason").unwrap_or_else(|| CRASH_REASON.to_owned());
    Ok(Parked { event, group, attempts: attempts.unwrap_or(1), reason })
}

pub(super) fn group_of(topology: &Topology, headers: Option<&FieldTable>) -> Option<String> {
    if let Some(group) = text_header(headers, "group") {
        return Some(group);
    }
    let queue = text_header(headers, "x-first-death-queue").or_else(|| death_queue(headers?))?;
    topology.group_of(&queue).map(str::to_owned)
}

/// Returns the first queue in RabbitMQ's own record of dead-lettering.
fn death_queue(headers: &FieldTable) -> Option<String> {
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    death.inner().get("queue")?.as_long_string().map(LongString::to_string)
}

/// A consumer of parked messages.
pub(super) struct ParkedSource {
    member: Member<ParkedDecoder>,
}

impl ParkedSource {
    pub(super) fn new(member: Member<ParkedDecoder>) -> Self {
        Self { member }
    }

    fn delivery(&self, item: Item<Parked>) -> ParkedDelivery {
        let lease = Lease::new(self.member.consumer(), item.key);
        ParkedDelivery::new(item.message, Box::new(ParkedLease(lease)))
    }
}

impl Source<ParkedDelivery> for ParkedSource {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<ParkedDelivery>> {
        self.member.poll_next(context).map(|item| item.map(|item| self.delivery(item)))
    }

    fn try_next(&mut self) -> Option<ParkedDelivery> {
        self.member.try_next().map(|item| self.delivery(item))
    }

    fn failure(&self) -> Option<BrokerError> {
        self.member.consumer().shared().failure()
    }
}

struct ParkedLease(Lease<ParkedDecoder>);

impl Settle for ParkedLease {
    fn settle(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<(), BrokerError>> {
        if self.0.shared().is_stopping() {
            return Box::pin(std::future::ready(Err(BrokerError::Closed)));
        }
        self.0.settle(if outcome == Outcome::Done { Settled::Done } else { Settled::Released });
        Box::pin(std::future::ready(Ok(())))
    }

    /// Dropping the lease releases the message.
    fn release(self: Box<Self>) {}
}

/// The queue consumer of parked messages.
pub(super) type ParkedQueueConsumer = Arc<super::queue_consumer::QueueConsumer<ParkedDecoder>>;
