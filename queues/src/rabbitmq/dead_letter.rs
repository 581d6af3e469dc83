//! Dead letters: unreadable messages, rejected proposals and oversized events, each with the reason.

use std::sync::atomic::Ordering;

use dissent_domain::event::Recorded;
use lapin::message::Delivery as AmqpDelivery;
use lapin::types::ShortString;

use super::headers::cut;
use super::shared::Shared;
use super::window::Message;
use super::wire;
use crate::error::BrokerError;
use crate::proposal::Proposal;
use crate::random::random;

/// A message to be published to the dead letters.
pub(super) struct DeadLetter {
    kind: &'static str,
    /// The queue that held it.
    queue: String,
    experiment: Option<String>,
    original_id: Option<String>,
    reason: String,
    body: Vec<u8>,
}

impl DeadLetter {
    /// Returns a message that cannot be read.
    pub(super) fn unreadable(kind: &'static str, queue: &str, delivery: &AmqpDelivery, reason: &str) -> Self {
        Self {
            kind,
            queue: queue.to_owned(),
            experiment: None,
            original_id: delivery.properties.message_id().as_ref().map(ShortString::to_string),
            reason: reason.to_owned(),
            body: delivery.data.clone(),
        }
    }

    /// Returns a proposal that the rules reject.
    pub(super) fn rejected(shared: &Shared, proposal: &Proposal, reason: &str) -> Result<Self, BrokerError> {
        Ok(Self {
            kind: "proposal",
            queue: shared.topology.proposals(&proposal.experiment),
            experiment: Some(proposal.experiment.as_str().to_owned()),
            original_id: None,
            reason: reason.to_owned(),
            body: wire::encode_proposal(proposal)?,
        })
    }

    /// Returns an event that is too large for a message. It remains in the log.
    pub(super) fn not_relayed(event: &Recorded, reason: &str) -> Self {
        Self {
            kind: "event",
            queue: String::new(),
            experiment: Some(event.experiment.as_str().to_owned()),
            original_id: Some(event.event.id.to_string()),
            reason: reason.to_owned(),
            body: Vec::new(),
        }
    }

    /// Publishes the dead letter and waits until it is durable.
    pub(super) async fn publish(self, shared: &Shared) -> Result<(), BrokerError> {
        let id = format!("{:016x}", random());
        // A received message may exceed the limit of sent ones: keep its beginning.
        let mut body = self.body;
        body.truncate(shared.options.message_bytes_max);
        let mut message = Message::to_queue(&shared.topology.dead(), id, body)
            .with_text("kind", self.kind)
            .with_text("queue", &self.queue)
            .with_text("reason", cut(&self.reason));
        for (header, value) in [("experiment", &self.experiment), ("original_id", &self.original_id)] {
            if let Some(value) = value {
                message = message.with_text(header, value);
            }
        }
        shared.publisher.publish(message).await?;
        shared.counters.dead.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}
