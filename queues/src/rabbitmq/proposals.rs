//! Proposals over RabbitMQ: workers send them, and the server's journal receives them with its own.

use std::sync::Arc;

use dissent_domain::id::ExperimentId;
use lapin::message::Delivery as AmqpDelivery;
use tokio::sync::mpsc;

use super::context::{add_context, context_of};
use super::dead_letter::DeadLetter;
use super::queue_consumer::{Decoder, Item, Lease, Member, QueueConsumer, Settled};
use super::shared::Shared;
use super::topology::Topology;
use super::window::Message;
use super::wire;
use crate::context::Contexts;
use crate::delivery::MessageContext;
use crate::error::BrokerError;
use crate::future::BoxFuture;
use crate::proposal::{Proposal, ProposalDelivery, ProposalReply, Reply};
use crate::random::random;

/// Delay after which a proposal is delivered again that the journal could not take, in milliseconds.
const RETRY_LATER_MS: u64 = 1000;
/// Prefetch of an experiment's proposals, which the journal decides together.
const PREFETCH: usize = 16;

/// A proposal and its context.
#[derive(Debug, Clone)]
pub(super) struct ProposalMessage {
    proposal: Proposal,
    context: MessageContext,
}

/// Decodes the proposals of an experiment.
pub(super) struct ProposalDecoder {
    pub experiment: ExperimentId,
    pub bytes_max: usize,
}

impl Decoder for ProposalDecoder {
    type Message = ProposalMessage;
    const NAME: &'static str = "proposal";

    fn decode(&self, delivery: &AmqpDelivery) -> Result<ProposalMessage, String> {
        let proposal = wire::decode_proposal(&delivery.data, self.bytes_max)?;
        if proposal.experiment != self.experiment {
            return Err(format!("the proposal is for experiment {}", proposal.experiment));
        }
        Ok(ProposalMessage { proposal, context: context_of(delivery.properties.headers().as_ref()) })
    }
}

/// Sends a proposal; it is durable when this returns.
pub(super) async fn send(
    shared: &Shared,
    proposal: &Proposal,
    context: &MessageContext,
) -> Result<(), BrokerError> {
    let body = wire::encode_proposal(proposal)?;
    shared.publisher.publish(add_context(message(shared, proposal, body), context)).await
}

fn message(shared: &Shared, proposal: &Proposal, body: Vec<u8>) -> Message {
    // Several workers may propose the same events: each proposal is decided.
    let id = format!("{:016x}{:016x}", random(), random());
    let message = Message::to_queue(&shared.topology.proposals(&proposal.experiment), id, body)
        .with_text("experiment", proposal.experiment.as_str());
    match proposal.cause {
        Some(cause) => message.with_text("causation", &cause.to_string()),
        None => message,
    }
}

/// Passes the remote proposals of an experiment to the journal until the consumer closes or the journal
/// stops.
pub(super) fn receive(
    shared: &Arc<Shared>,
    experiment: &ExperimentId,
    outgoing: mpsc::Sender<ProposalDelivery>,
    contexts: Arc<Contexts>,
) -> Arc<QueueConsumer<ProposalDecoder>> {
    let (experiment, bytes_max) = (experiment.clone(), shared.options.message_bytes_max);
    let queue = shared.topology.proposals(&experiment);
    let consumer = QueueConsumer::start(shared, queue, ProposalDecoder { experiment, bytes_max });
    let prefetch = u16::try_from(shared.options.proposals_max.min(PREFETCH)).unwrap_or(u16::MAX);
    shared.runtime.spawn(pass_on(consumer.join(prefetch), outgoing, contexts));
    consumer
}

async fn pass_on(
    member: Member<ProposalDecoder>,
    outgoing: mpsc::Sender<ProposalDelivery>,
    contexts: Arc<Contexts>,
) {
    loop {
        let item = tokio::select! {
            item = std::future::poll_fn(|context| member.poll_next(context)) => item,
            () = outgoing.closed() => return,
        };
        let Some(Item { key, message, .. }) = item else { return };
        let ProposalMessage { proposal, context } = message;
        contexts.note(proposal.events.iter().map(|event| event.id), &context);
        let lease = Lease::new(member.consumer(), key);
        let remote = Remote { lease, proposal: proposal.clone(), context: context.clone() };
        let reply = Reply::Remote(Box::new(remote));
        let delivery = ProposalDelivery { proposal, context, reply };
        if outgoing.send(delivery).await.is_err() {
            return;
        }
    }
}

/// The reply to a remote proposer, which does not wait. If it is dropped, the proposal is redelivered.
struct Remote {
    lease: Lease<ProposalDecoder>,
    proposal: Proposal,
    context: MessageContext,
}

impl Remote {
    /// Moves the proposal to the end of its queue, after a delay. The copy is durable before the original is
    /// acknowledged.
    async fn deliver_later(self) -> Result<(), BrokerError> {
        let shared = self.lease.shared();
        let body = wire::encode_proposal(&self.proposal)?;
        let copy = add_context(message(shared, &self.proposal, body), &self.context);
        let delay_ms = Topology::retry_delay(RETRY_LATER_MS, shared.retry_delay_max_ms());
        let copy = Message { exchange: shared.topology.retry(delay_ms), ..copy };
        shared.publisher.publish_delayed(copy, delay_ms).await?;
        self.lease.settle(Settled::Replaced);
        Ok(())
    }
}

impl crate::proposal::RemoteReply for Remote {
    fn answer(self: Box<Self>, answer: ProposalReply) -> BoxFuture<'static, Result<(), BrokerError>> {
        Box::pin(async move {
            if self.lease.shared().is_stopping() {
                return Err(BrokerError::Closed);
            }
            match &answer {
                ProposalReply::RetryLater => return self.deliver_later().await,
                ProposalReply::Rejected { reason } => {
                    let letter = DeadLetter::rejected(self.lease.shared(), &self.proposal, reason)?;
                    letter.publish(self.lease.shared()).await?;
                }
                ProposalReply::Recorded(_) | ProposalReply::Queued => {}
            }
            self.lease.settle(Settled::Done);
            Ok(())
        })
    }
}
