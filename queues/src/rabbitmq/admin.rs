//! What a person asks of the queues: how much lies in them, what is among the dead letters and why, and what is to become
//! of it.
//!
//! Dead letters are looked at by taking messages without acknowledging them and giving them back: two people who look at the
//! same time may each see a part only.

use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::ShortString;

use super::RabbitBroker;
use super::events::group_message;
use super::link::{Link, LinkError, random};
use super::topology::{look_at, short};
use super::window::{Message, number_header, text_header};
use super::{parked, wire};
use crate::delivery::MessageContext;
use crate::error::BrokerError;

/// What lies in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStats {
    /// The queue's name, with its prefix.
    pub name: String,
    /// Messages that wait for a consumer.
    pub messages: u32,
    /// Consumers, over all processes.
    pub consumers: u32,
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadMessage {
    /// What [`RabbitBroker::dead_retry`] and [`RabbitBroker::dead_drop`] know it by.
    pub id: String,
    /// `event`: a step used up its attempts; `proposal`: it was rejected; else what could not be read.
    pub kind: String,
    /// The group or queue that it was in.
    pub queue: String,
    /// The experiment, where it is known.
    pub experiment: Option<String>,
    /// Place of the event in the log, where it is one.
    pub position: Option<u64>,
    /// Failed attempts, where they were counted.
    pub attempts: Option<u64>,
    /// Why it was given up.
    pub reason: String,
    /// Bytes of its body.
    pub bytes: usize,
}

/// What is to become of a dead message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Retry,
    Drop,
}

impl RabbitBroker {
    /// What lies in the queues of this process's groups, and in those that all share. Those that are not there are left
    /// out.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if RabbitMQ is away.
    pub async fn queues(&self) -> Result<Vec<QueueStats>, BrokerError> {
        let groups: Vec<String> = super::core::lock(&self.groups).keys().cloned().collect();
        self.queue_stats(&groups).await
    }

    /// What lies in the queues of these groups, and in those that all share. Those that are not there are left out.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if RabbitMQ is away.
    pub async fn queue_stats(&self, groups: &[String]) -> Result<Vec<QueueStats>, BrokerError> {
        let topology = &self.core.topology;
        let mut names = vec![topology.proposals(), topology.parked(), topology.dead()];
        for group in groups {
            names.push(topology.group(group)?);
        }
        let link = self.core.consuming.clone();
        self.on_runtime(async move { stats(&link, names).await }).await
    }

    /// The first messages that were given up, at most `limit` of each kind.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if RabbitMQ is away.
    pub async fn dead_list(&self, limit: usize) -> Result<Vec<DeadMessage>, BrokerError> {
        let mut found = Vec::new();
        for queue in [self.core.topology.parked(), self.core.topology.dead()] {
            let (link, bytes_max) = (self.core.consuming.clone(), self.core.options.message_bytes_max);
            let topology = self.core.topology.clone();
            let seen = self.on_runtime(async move {
                let (_, channel) = link.channel().await?;
                let mut seen = Vec::new();
                while seen.len() < limit
                    && let Some(message) =
                        link.within(channel.basic_get(short(&queue), BasicGetOptions::default())).await?
                {
                    seen.push(described(&topology, &message, bytes_max));
                }
                // What was taken and not acknowledged goes back with the channel.
                link.within(channel.close(200, short("looked"))).await?;
                Ok(seen)
            });
            found.extend(seen.await?);
        }
        Ok(found)
    }

    /// Gives a message back to where it failed, with all its attempts before it, and takes it off the list.
    ///
    /// # Errors
    /// [`BrokerError::Invalid`] if there is none of this id or it cannot be read; [`BrokerError::Unavailable`].
    pub async fn dead_retry(&self, id: &str) -> Result<DeadMessage, BrokerError> {
        self.settle_dead(id, Fate::Retry).await
    }

    /// Takes a message off the list for good. If it is an event, the log keeps it.
    ///
    /// # Errors
    /// As [`Self::dead_retry`].
    pub async fn dead_drop(&self, id: &str) -> Result<DeadMessage, BrokerError> {
        self.settle_dead(id, Fate::Drop).await
    }

    async fn settle_dead(&self, id: &str, fate: Fate) -> Result<DeadMessage, BrokerError> {
        for queue in [self.core.topology.parked(), self.core.topology.dead()] {
            if let Some(done) = self.settle_dead_in(&queue, id, fate).await? {
                return Ok(done);
            }
        }
        Err(BrokerError::Invalid(format!("there is no dead message {id:?}: see `dissent dead list`")))
    }

    async fn settle_dead_in(
        &self,
        queue: &str,
        id: &str,
        fate: Fate,
    ) -> Result<Option<DeadMessage>, BrokerError> {
        let (core, queue, id) = (self.core.clone(), queue.to_owned(), id.to_owned());
        self.on_runtime(async move {
            let link = &core.consuming;
            let (_, channel) = link.channel().await?;
            let mut settled = None;
            while let Some(message) =
                link.within(channel.basic_get(short(&queue), BasicGetOptions::default())).await?
            {
                let found = described(&core.topology, &message, core.options.message_bytes_max);
                if found.id != id {
                    continue;
                }
                if fate == Fate::Retry {
                    // Safe in its queue before it is taken off the list.
                    core.publisher.publish(revived(&core, &found, &message)?).await?;
                }
                let one = BasicAckOptions { multiple: false };
                link.within(channel.basic_ack(message.delivery_tag, one)).await?;
                settled = Some(found);
                break;
            }
            link.within(channel.close(200, short("looked"))).await?;
            Ok(settled)
        })
        .await
    }

    /// Talks to RabbitMQ on the broker's own threads, for as long as an operation may take.
    async fn on_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, LinkError>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let limit = self.core.options.operation_timeout;
        let working = self.core.runtime.spawn(async move { tokio::time::timeout(limit, work).await });
        let place = || format!("RabbitMQ at {}", self.core.options.place());
        match working.await.map_err(|_| BrokerError::Closed)? {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(LinkError::Broker(error))) => Err(error),
            Ok(Err(error)) => Err(BrokerError::Unavailable(format!("{}: {error}", place()))),
            Err(_) => Err(BrokerError::Unavailable(format!("{} did not answer within {limit:?}", place()))),
        }
    }
}

async fn stats(link: &Link, names: Vec<String>) -> Result<Vec<QueueStats>, LinkError> {
    let mut found = Vec::new();
    let mut channel = link.channel().await?.1;
    for name in names {
        match link.within(look_at(&channel, &name)).await? {
            Some((messages, consumers)) => found.push(QueueStats { name, messages, consumers }),
            None => channel = link.channel().await?.1,
        }
    }
    link.within(channel.close(200, short("looked"))).await?;
    Ok(found)
}

fn described(
    topology: &super::topology::Topology,
    message: &BasicGetMessage,
    bytes_max: usize,
) -> DeadMessage {
    let headers = message.properties.headers().as_ref();
    let id = message.properties.message_id().as_ref().map(ShortString::to_string).unwrap_or_default();
    let bytes = message.data.len();
    if let Some(kind) = text_header(headers, "kind") {
        return DeadMessage {
            id,
            kind,
            queue: text_header(headers, "queue").unwrap_or_default(),
            experiment: text_header(headers, "experiment"),
            position: None,
            attempts: None,
            reason: text_header(headers, "reason").unwrap_or_default(),
            bytes,
        };
    }
    match parked::read(topology, message, bytes_max) {
        Ok(parked) => DeadMessage {
            id,
            kind: "event".to_owned(),
            queue: parked.group,
            experiment: Some(parked.event.experiment.as_str().to_owned()),
            position: Some(parked.event.position),
            attempts: number_header(headers, super::events::ATTEMPT),
            reason: parked.reason,
            bytes,
        },
        Err(reason) => DeadMessage {
            id,
            kind: "unreadable".to_owned(),
            queue: String::new(),
            experiment: None,
            position: None,
            attempts: None,
            reason,
            bytes,
        },
    }
}

/// The message that puts a dead one back where it failed.
fn revived(
    core: &super::core::Core,
    found: &DeadMessage,
    message: &BasicGetMessage,
) -> Result<Message, LinkError> {
    let invalid = |reason: String| LinkError::Broker(BrokerError::Invalid(reason));
    // An id of its own: the one before may be among those lately done.
    let id = format!("{}/{:016x}", found.id, random());
    let bytes_max = core.options.message_bytes_max;
    if found.kind == "event" && found.position.is_some() {
        let event = wire::decode_event(&message.data, bytes_max).map_err(invalid)?;
        let queue = core.topology.group(&found.queue)?;
        return group_message(&queue, id, &event, 1, &MessageContext::new()).map_err(invalid);
    }
    if found.kind == "proposal" {
        wire::decode_proposal(&message.data, bytes_max).map_err(invalid)?;
        return Ok(Message::to_queue(&core.topology.proposals(), id, message.data.clone()));
    }
    Err(invalid(format!("{} cannot be tried again: {}", found.id, found.reason)))
}
