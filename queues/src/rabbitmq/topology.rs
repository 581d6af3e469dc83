//! The exchanges and queues: names and properties. Every declaration is idempotent.

use dissent_domain::event::{EventId, Recorded};
use dissent_domain::id::ExperimentId;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};

use crate::error::BrokerError;

/// RabbitMQ 4 drops messages of a quorum queue after 20 deliveries by default. Messages of the service queues
/// may be listed any number of times.
const NO_DELIVERY_LIMIT: i64 = 1_000_000_000;
/// Maximum number of dead letters kept; above it the oldest are dropped.
const DEAD_MESSAGES_MAX: i64 = 100_000;
/// Group names that would collide with permanent queues.
const RESERVED: [&str; 5] = ["events", "proposals", "dead", "parked", "repair"];

/// The names, under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    prefix: String,
}

/// Returns a name for lapin, which allows 255 bytes. Prefix and group have at most 64 each.
pub(super) fn short(name: &str) -> ShortString {
    ShortString::from(name)
}

/// Returns an argument or header that is text.
pub(super) fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text.as_bytes()))
}

/// Returns the experiment's key in routing keys and queue names: its name may contain dots and be too long.
pub(super) fn experiment_key(experiment: &ExperimentId) -> String {
    EventId::of_experiment(experiment).0.simple().to_string()
}

/// Returns the routing key of an event.
pub(super) fn routing_key(event: &Recorded) -> String {
    format!("{}.{}", experiment_key(&event.experiment), event.event.event_type)
}

/// Returns the binding key of a group for an event type.
pub(super) fn binding_key(experiment: Option<&ExperimentId>, kind: &str) -> String {
    match experiment {
        Some(experiment) => format!("{}.{kind}", experiment_key(experiment)),
        None => format!("*.{kind}"),
    }
}

impl Topology {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }

    pub(super) fn proposals(&self) -> String {
        format!("{}.proposals", self.prefix)
    }

    pub(super) fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    pub(super) fn parked(&self) -> String {
        format!("{}.parked", self.prefix)
    }

    pub(super) fn history(&self, experiment: &ExperimentId) -> String {
        format!("{}.history.{}", self.prefix, experiment_key(experiment))
    }

    pub(super) fn retry(&self, delay_ms: u64) -> String {
        format!("{}.retry.{delay_ms}", self.prefix)
    }

    pub(super) fn repair(&self) -> String {
        format!("{}.repair", self.prefix)
    }

    /// Returns the queue of a group.
    pub(super) fn group(&self, group: &str) -> Result<String, BrokerError> {
        let reserved =
            RESERVED.contains(&group) || group.starts_with("history.") || group.starts_with("retry.");
        if reserved {
            let (name, allowed) = (
                group.to_owned(),
                format!(
                    "a name other than {}, and not starting with history. or retry.",
                    RESERVED.join(", ")
                ),
            );
            return Err(BrokerError::InvalidName { what: "group name", name, allowed });
        }
        Ok(format!("{}.{group}", self.prefix))
    }

    /// Returns the group of a queue: the inverse of [`Self::group`].
    pub(super) fn group_of<'a>(&self, queue: &'a str) -> Option<&'a str> {
        queue.strip_prefix(self.prefix.as_str())?.strip_prefix('.')
    }

    /// Declares the permanent queues; every process does so before their use. Losing them loses no event, so
    /// nothing has to be filled.
    pub(super) async fn declare_base(&self, channel: &Channel) -> lapin::Result<()> {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(short(&self.events()), ExchangeKind::Topic, durable, FieldTable::default())
            .await?;
        self.declare_quorum(channel, &self.proposals(), &[]).await?;
        self.declare_quorum(channel, &self.parked(), &[]).await?;
        let bounded =
            [("x-max-length", AMQPValue::LongLongInt(DEAD_MESSAGES_MAX)), ("x-overflow", long("drop-head"))];
        self.declare_quorum(channel, &self.dead(), &bounded).await
    }

    async fn declare_quorum(
        &self,
        channel: &Channel,
        name: &str,
        more: &[(&str, AMQPValue)],
    ) -> lapin::Result<()> {
        let limit = [("x-delivery-limit", AMQPValue::LongLongInt(NO_DELIVERY_LIMIT))];
        declare_queue(channel, name, "quorum", limit.iter().chain(more).cloned()).await
    }

    /// Declares the queue of a group. A message that is redelivered too often is parked, at least once.
    pub(super) async fn declare_group(
        &self,
        channel: &Channel,
        queue: &str,
        redeliveries_max: u32,
    ) -> lapin::Result<()> {
        let arguments = [
            ("x-delivery-limit", AMQPValue::LongLongInt(i64::from(redeliveries_max))),
            ("x-overflow", long("reject-publish")),
            ("x-dead-letter-strategy", long("at-least-once")),
            ("x-dead-letter-exchange", long("")),
            ("x-dead-letter-routing-key", long(&self.parked())),
        ];
        declare_queue(channel, queue, "quorum", arguments.into_iter()).await
    }

    /// Declares a queue in which messages wait for their next attempt: they expire into the queue that their
    /// routing key names.
    pub(super) async fn declare_retry(&self, channel: &Channel, delay_ms: u64) -> lapin::Result<()> {
        let name = self.retry(delay_ms);
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(short(&name), ExchangeKind::Fanout, durable, FieldTable::default()).await?;
        let arguments = [
            ("x-message-ttl", AMQPValue::LongLongInt(i64::try_from(delay_ms).unwrap_or(i64::MAX))),
            ("x-overflow", long("reject-publish")),
            ("x-dead-letter-strategy", long("at-least-once")),
            ("x-dead-letter-exchange", long("")),
        ];
        declare_queue(channel, &name, "quorum", arguments.into_iter()).await?;
        bind(channel, &name, &name, "").await
    }

    /// Declares a queue as a lock: one connection at a time owns it, and it is deleted with the connection.
    /// It never holds a message.
    pub(super) async fn declare_repair(&self, channel: &Channel) -> lapin::Result<()> {
        let (name, options) = (short(&self.repair()), QueueDeclareOptions::exclusive());
        channel.queue_declare(name, options, FieldTable::default()).await.map(drop)
    }

    /// Declares the stream of an experiment's history.
    pub(super) async fn declare_history(&self, channel: &Channel, stream: &str) -> lapin::Result<()> {
        declare_queue(channel, stream, "stream", std::iter::empty()).await
    }
}

pub(super) async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel.queue_bind(short(queue), short(exchange), short(key), options, FieldTable::default()).await
}

pub(super) async fn unbind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    channel.queue_unbind(short(queue), short(exchange), short(key), FieldTable::default()).await
}

async fn declare_queue(
    channel: &Channel,
    name: &str,
    kind: &str,
    more: impl Iterator<Item = (&str, AMQPValue)>,
) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-queue-type"), long(kind));
    for (argument, value) in more {
        arguments.insert(short(argument), value);
    }
    channel.queue_declare(short(name), QueueDeclareOptions::durable(), arguments).await.map(drop)
}

/// Message and consumer counts of a queue; `None` if it does not exist. The channel is closed after a `None`.
pub(super) async fn look_at(channel: &Channel, queue: &str) -> lapin::Result<Option<(u32, u32)>> {
    let passive = QueueDeclareOptions::durable().passive();
    match channel.queue_declare(short(queue), passive, FieldTable::default()).await {
        Ok(queue) => Ok(Some((queue.message_count(), queue.consumer_count()))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error means that a queue or exchange does not exist.
pub(super) fn is_absent(error: &lapin::Error) -> bool {
    const NOT_FOUND: u16 = 404;
    matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_group_names_are_errors() {
        let topology = Topology::new("dissent");
        for reserved in ["dead", "parked", "proposals", "events", "repair", "retry.100", "history.x"] {
            assert!(topology.group(reserved).is_err(), "{reserved}");
        }
        let queue = topology.group("generation.0a").unwrap();
        assert_eq!(queue, "dissent.generation.0a");
        assert_eq!(topology.group_of(&queue), Some("generation.0a"));
    }

    #[test]
    fn events_match_only_the_bindings_of_their_experiment() {
        let (one, other) = (ExperimentId::new("a.b").unwrap(), ExperimentId::new("a").unwrap());
        assert_ne!(binding_key(Some(&one), "x.y"), binding_key(Some(&other), "x.y"));
        assert!(!experiment_key(&one).contains('.'), "one word of a topic");
        assert_eq!(binding_key(None, "x.y"), "*.x.y");
    }
}
