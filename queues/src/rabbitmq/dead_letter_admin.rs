//! Listing, retrying and dropping dead letters and parked messages.
//!
//! RabbitMQ shows a message only by delivering it. Listing takes the messages and requeues them; meanwhile
//! other consumers do not get them.

use std::time::Duration;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::ShortString;
use tokio::time::{sleep, timeout};

use super::broker::{RabbitBroker, unavailable};
use super::headers::{ATTEMPT, number_header, text_header};
use super::link_error::LinkError;
use super::topology::{look_at, short};
use super::window::Message;
use super::{events, parked, wire};
use crate::delivery::MessageContext;
use crate::error::BrokerError;
use crate::proposal::Proposal;
use crate::random::random;

/// Maximum number of messages that are listed.
const LOOK_MAX: usize = 10_000;
/// Longest time for listing them; 10 000 messages take seconds.
const LOOK_TIME_MAX: Duration = Duration::from_secs(120);
/// Interval and number of checks whether the messages are back in their queue.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const LOOKS_MAX: usize = 50;

/// A dead letter or a parked message.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadMessage {
    /// Its message id.
    pub id: String,
    /// Whether it is parked: it used up its attempts, and the server has not recorded that.
    pub parked: bool,
    /// `event`, `proposal` or `parked`.
    pub kind: String,
    /// The queue that held it; for a parked message, its group's queue.
    pub queue: String,
    /// The experiment, if known.
    pub experiment: Option<String>,
    /// Failed attempts; 0 if it was never tried.
    pub attempts: u64,
    /// The reason why it is dead or parked.
    pub reason: String,
    /// Size of its body, in bytes.
    pub bytes: usize,
    /// Its decoded body.
    pub content: DeadContent,
}

/// The body of a dead letter or parked message.
#[derive(Debug, Clone, PartialEq)]
pub enum DeadContent {
    /// An event.
    Event(Recorded),
    /// A proposal.
    Proposal(Proposal),
    /// A body that cannot be decoded.
    Unreadable(Vec<u8>),
}

/// A queue of dead letters or of parked messages.
struct DeadQueue {
    name: String,
    is_parked: bool,
}

impl RabbitBroker {
    /// Lists the dead letters, and the parked messages of these experiments: at most `limit` and at most
    /// 10 000.
    ///
    /// # Errors
    /// - [`BrokerError::NoQueues`] if no server has run under the prefix.
    /// - [`BrokerError::Unavailable`] if RabbitMQ is unavailable or does not respond in time.
    pub async fn dead_list(
        &self,
        experiments: &[ExperimentId],
        limit: usize,
    ) -> Result<Vec<DeadMessage>, BrokerError> {
        let mut found = Vec::new();
        let looking = self.look(experiments, limit.min(LOOK_MAX), |_| false, &mut found);
        self.in_time(looking).await?;
        Ok(found)
    }

    /// Returns the message with this id, if there is one.
    ///
    /// # Errors
    /// As [`dead_list`](Self::dead_list).
    pub async fn dead_get(
        &self,
        experiments: &[ExperimentId],
        id: &str,
    ) -> Result<Option<DeadMessage>, BrokerError> {
        let mut found = Vec::new();
        let looking = self.look(experiments, LOOK_MAX, |message| message.id == id, &mut found);
        self.in_time(looking).await?;
        Ok(found.into_iter().find(|message| message.id == id))
    }

    /// Sends a message back to its queue as a first attempt, and removes it here. A proposal returns to the
    /// queue of its experiment. Returns false if there is no message with this id.
    ///
    /// # Errors
    /// [`BrokerError::NoQueue`] if its queue is unknown; otherwise as [`dead_list`](Self::dead_list).
    pub async fn dead_retry(&self, experiments: &[ExperimentId], id: &str) -> Result<bool, BrokerError> {
        let settling = self.settle_dead(experiments, id, |message| async move {
            let message = self.message_to_retry(&message)?;
            // If the queue was deleted, the message is never confirmed.
            let limit = self.shared.options.operation_timeout;
            let late = |_| self.shared.late("confirm the message, whose queue may be deleted,", limit);
            timeout(limit, self.shared.publisher.publish(message)).await.map_err(late)??;
            Ok(())
        });
        self.in_time(settling).await
    }

    /// Deletes a message. Returns false if there is no message with this id.
    ///
    /// # Errors
    /// As [`dead_list`](Self::dead_list).
    pub async fn dead_drop(&self, experiments: &[ExperimentId], id: &str) -> Result<bool, BrokerError> {
        let settling = self.settle_dead(experiments, id, |_| async { Ok(()) });
        self.in_time(settling).await
    }

    async fn in_time<T>(
        &self,
        looking: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, BrokerError> {
        let outcome = match timeout(LOOK_TIME_MAX, looking).await {
            Ok(outcome) => outcome,
            Err(_) => Err(LinkError::Late(LOOK_TIME_MAX)),
        };
        outcome.map_err(|error| unavailable(&self.shared, "read the dead letters", error))
    }

    /// Returns the existing queues of dead letters and of parked messages.
    async fn dead_queues(&self, experiments: &[ExperimentId]) -> Result<Vec<DeadQueue>, LinkError> {
        let (link, topology) = (&self.shared.consuming, &self.shared.topology);
        let dead = DeadQueue { name: topology.dead(), is_parked: false };
        let parked = experiments.iter().map(|experiment| topology.parked(experiment));
        let parked = parked.map(|name| DeadQueue { name, is_parked: true });
        let (_, mut channel) = link.channel().await?;
        let mut existing = Vec::new();
        for queue in [dead].into_iter().chain(parked) {
            if link.within(look_at(&channel, &queue.name)).await?.is_some() {
                existing.push(queue);
            } else if queue.is_parked {
                // A query for a missing queue closes the channel.
                (_, channel) = link.channel().await?;
            } else {
                let prefix = self.shared.options.prefix.clone();
                return Err(BrokerError::NoQueues { prefix }.into());
            }
        }
        Ok(existing)
    }

    /// Takes messages up to the last wanted one. All are requeued when the channel closes.
    async fn look(
        &self,
        experiments: &[ExperimentId],
        limit: usize,
        is_last: impl Fn(&DeadMessage) -> bool,
        found: &mut Vec<DeadMessage>,
    ) -> Result<(), LinkError> {
        let queues = self.dead_queues(experiments).await?;
        let (_, channel) = self.shared.consuming.channel().await?;
        let mut taken = Vec::new();
        for queue in &queues {
            let before = found.len();
            while found.len() < limit && !found.last().is_some_and(&is_last) {
                let Some(delivery) = self.get(&channel, queue).await? else { break };
                found.push(self.read_dead(&delivery, queue.is_parked));
            }
            taken.push((queue, found.len() - before));
        }
        self.put_back(&channel, &taken).await
    }

    /// Applies `decide` to a message, and deletes the message if that succeeds.
    async fn settle_dead<D>(
        &self,
        experiments: &[ExperimentId],
        id: &str,
        decide: impl FnOnce(DeadMessage) -> D,
    ) -> Result<bool, LinkError>
    where
        D: Future<Output = Result<(), BrokerError>>,
    {
        let link = &self.shared.consuming;
        let queues = self.dead_queues(experiments).await?;
        let (_, channel) = link.channel().await?;
        let mut taken = Vec::new();
        let mut seen = 0;
        for queue in &queues {
            let before = seen;
            while seen < LOOK_MAX {
                let Some(delivery) = self.get(&channel, queue).await? else { break };
                let message = self.read_dead(&delivery, queue.is_parked);
                if message.id != id {
                    seen += 1;
                    continue;
                }
                let done = decide(message).await;
                if done.is_ok() {
                    let one = BasicAckOptions { multiple: false };
                    link.within(channel.basic_ack(delivery.delivery_tag, one)).await?;
                }
                taken.push((queue, seen - before));
                self.put_back(&channel, &taken).await?;
                return Ok(done.map(|()| true)?);
            }
            taken.push((queue, seen - before));
        }
        self.put_back(&channel, &taken).await?;
        Ok(false)
    }

    async fn get(&self, channel: &Channel, queue: &DeadQueue) -> Result<Option<Delivery>, LinkError> {
        let got = channel.basic_get(short(&queue.name), BasicGetOptions { no_ack: false });
        Ok(self.shared.consuming.within(got).await?.map(|message| message.delivery))
    }

    /// Requeues all messages by closing the channel, and waits a bounded time until they are available again.
    async fn put_back(&self, channel: &Channel, taken: &[(&DeadQueue, usize)]) -> Result<(), LinkError> {
        let link = &self.shared.consuming;
        link.within(channel.close(200, short("looked"))).await?;
        let (_, channel) = link.channel().await?;
        for &(queue, taken) in taken {
            let is_back = |(messages, consumers): (u32, u32)| {
                // A queue with consumers delivers them at once.
                consumers > 0 || usize::try_from(messages).is_ok_and(|messages| messages >= taken)
            };
            for _ in 0..LOOKS_MAX {
                let now = link.within(look_at(&channel, &queue.name)).await?;
                if now.is_none_or(is_back) {
                    break;
                }
                sleep(LOOK_INTERVAL).await;
            }
        }
        Ok(())
    }

    fn read_dead(&self, delivery: &Delivery, is_parked: bool) -> DeadMessage {
        let headers = delivery.properties.headers().as_ref();
        let most = self.shared.options.message_bytes_max;
        let text = |name: &str| text_header(headers, name);
        let bytes = delivery.data.len();
        let mut message = DeadMessage {
            id: delivery.properties.message_id().as_ref().map(ShortString::to_string).unwrap_or_default(),
            parked: is_parked,
            kind: text("kind").unwrap_or_else(|| "event".to_owned()),
            queue: text("queue").unwrap_or_default(),
            experiment: text("experiment"),
            attempts: number_header(headers, ATTEMPT).unwrap_or(0),
            reason: text("reason").unwrap_or_default(),
            bytes,
            content: DeadContent::Unreadable(Vec::new()),
        };
        if is_parked && let Ok(parked) = parked::read(&self.shared.topology, delivery, most) {
            message.queue = self.shared.topology.group(&parked.group).unwrap_or_default();
            message.reason = parked.reason;
            message.attempts = u64::from(parked.attempts);
            message.content = DeadContent::Event(parked.event);
            return message;
        }
        // RabbitMQ itself moved a message of a group of all experiments here.
        if message.queue.is_empty()
            && let Some(group) = parked::group_of(&self.shared.topology, headers)
        {
            message.queue = self.shared.topology.group(&group).unwrap_or_default();
            message.reason = parked::CRASH_REASON.to_owned();
        }
        message.content = if let Ok(event) = wire::decode_event(&delivery.data, most) {
            DeadContent::Event(event)
        } else if let Ok(proposal) = wire::decode_proposal(&delivery.data, most) {
            DeadContent::Proposal(proposal)
        } else {
            DeadContent::Unreadable(delivery.data.clone())
        };
        message
    }

    /// Returns the message to send again for a dead letter.
    fn message_to_retry(&self, dead: &DeadMessage) -> Result<Message, BrokerError> {
        // The message gets a new id: duplicates of the old one may be dropped.
        let id = format!("{}/retry/{:016x}", dead.id.chars().take(64).collect::<String>(), random());
        if dead.queue.is_empty() || dead.bytes == 0 {
            return Err(BrokerError::NoQueue { id: dead.id.clone() });
        }
        match &dead.content {
            DeadContent::Event(event) => {
                events::group_message(&dead.queue, id, event, 1, &MessageContext::new())
            }
            DeadContent::Proposal(proposal) => {
                let body = wire::encode_proposal(proposal)?;
                let queue = self.shared.topology.proposals(&proposal.experiment);
                Ok(Message::to_queue(&queue, id, body).with_text("experiment", proposal.experiment.as_str()))
            }
            DeadContent::Unreadable(body) => Ok(Message::to_queue(&dead.queue, id, body.clone())),
        }
    }
}
