//! Messages that used up their attempts, in a queue of their own until somebody takes note of them.

use std::sync::Arc;
use std::task::{Context, Poll};

use dissent_domain::event::Recorded;
use lapin::message::Delivery as AmqpDelivery;
use lapin::types::{AMQPValue, FieldTable, LongString};

use super::core::Core;
use super::events::ATTEMPT;
use super::intake::{Item, Kind, Lease, Member, Settled};
use super::link::random;
use super::topology::Topology;
use super::window::{Message, number_header, text_header};
use super::wire;
use crate::broker::BoxFuture;
use crate::delivery::{Outcome, Parked, ParkedDelivery, Settle, Source};
use crate::error::BrokerError;

/// Longest reason that travels, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// The message that stands for one that is given up.
pub(super) fn message(
    core: &Core,
    group: &str,
    event: &Recorded,
    attempts: u32,
    reason: &str,
) -> Result<Message, BrokerError> {
    let body = wire::encode_event(event).map_err(BrokerError::Invalid)?;
    // The same event may be parked by several groups, and again after it was replayed.
    let id = format!("{}/{:016x}", event.event.id, random());
    Ok(Message::to_queue(&core.topology.parked(), id, body)
        .with_text("group", group)
        .with_text("experiment", event.experiment.as_str())
        .with_number("position", event.position)
        .with_number(ATTEMPT, u64::from(attempts))
        .with_text("reason", cut(reason)))
}

/// The beginning of a text, whole characters only.
pub(super) fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(REASON_BYTES_MAX)).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// What comes out of the queue of parked messages.
pub(super) struct ParkedKind {
    pub topology: Topology,
    pub bytes_max: usize,
}

impl Kind for ParkedKind {
    type Message = Parked;
    const NAME: &'static str = "parked";

    fn decode(&self, delivery: &AmqpDelivery) -> Result<Parked, String> {
        read(&self.topology, delivery, self.bytes_max)
    }

    /// What RabbitMQ itself gave up on still has the event's id, which several groups share.
    fn key(&self, delivery: &AmqpDelivery) -> Option<String> {
        let group = group_of(&self.topology, delivery.properties.headers().as_ref())?;
        Some(format!("{group}/{}", delivery.properties.message_id().as_ref()?))
    }
}

/// A parked message, ours or one that RabbitMQ itself gave up on.
pub(super) fn read(topology: &Topology, delivery: &AmqpDelivery, bytes_max: usize) -> Result<Parked, String> {
    let event = wire::decode_event(&delivery.data, bytes_max)?;
    let headers = delivery.properties.headers().as_ref();
    let group = group_of(topology, headers).ok_or("it does not say whose it is")?;
    let attempts = number_header(headers, ATTEMPT).and_then(|attempts| u32::try_from(attempts).ok());
    let reason = text_header(headers, "reason").unwrap_or_else(|| {
        "it was delivered again and again without an answer: it may kill the workers that take it".to_owned()
    });
    Ok(Parked { event, group, attempts: attempts.unwrap_or(1), reason })
}

fn group_of(topology: &Topology, headers: Option<&FieldTable>) -> Option<String> {
    if let Some(group) = text_header(headers, "group") {
        return Some(group);
    }
    let queue = text_header(headers, "x-first-death-queue").or_else(|| death_queue(headers?))?;
    topology.group_of(&queue).map(str::to_owned)
}

/// The queue that RabbitMQ's own record of deaths names first.
fn death_queue(headers: &FieldTable) -> Option<String> {
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    death.inner().get("queue")?.as_long_string().map(LongString::to_string)
}

/// A consumer of parked messages.
pub(super) struct ParkedSource {
    member: Member<ParkedKind>,
}

impl ParkedSource {
    pub(super) fn new(member: Member<ParkedKind>) -> Self {
        Self { member }
    }

    fn delivery(&self, item: Item<Parked>) -> ParkedDelivery {
        let lease = Lease::new(self.member.intake(), item.key);
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
        self.member.intake().core().failure()
    }
}

struct ParkedLease(Lease<ParkedKind>);

impl Settle for ParkedLease {
    fn settle(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<(), BrokerError>> {
        if self.0.core().is_stopping() {
            return Box::pin(std::future::ready(Err(BrokerError::Closed)));
        }
        self.0.settle(if outcome == Outcome::Done { Settled::Done } else { Settled::Released });
        Box::pin(std::future::ready(Ok(())))
    }

    /// Dropping the lease does it.
    fn release(self: Box<Self>) {}
}

/// The intake of parked messages.
pub(super) type ParkedIntake = Arc<super::intake::Intake<ParkedKind>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let reason = "é".repeat(REASON_BYTES_MAX);
        let cut = cut(&format!("x{reason}")).to_owned();
        assert!(cut.len() <= REASON_BYTES_MAX && cut.len() > REASON_BYTES_MAX - 2, "{}", cut.len());
    }
}
