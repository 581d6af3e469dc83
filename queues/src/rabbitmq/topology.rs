//! The exchanges and queues: names and properties. Every declaration is idempotent.

use dissent_domain::event::{EventId, Recorded};
use dissent_domain::id::ExperimentId;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};

use super::identity::PROTOCOL;
use crate::error::BrokerError;

/// RabbitMQ 4 drops messages of a quorum queue after 20 deliveries by default. Messages of the service queues
/// may be listed any number of times.
const NO_DELIVERY_LIMIT: i64 = 1_000_000_000;
/// Maximum number of dead letters kept; above it the oldest are dropped.
const DEAD_MESSAGES_MAX: i64 = 100_000;
/// Group names that would collide with other queues.
const RESERVED: [&str; 4] = ["events", "dead", "holder", "repair"];
/// Beginnings of names that would collide with other queues.
const RESERVED_BEGINNINGS: [&str; 5] = ["history.", "lock.", "parked.", "proposals.", "retry."];
/// Number of halvings of a second to the shortest delay of a retry queue, about 1 ms.
const HALVINGS: u32 = 10;

/// The names, under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    /// The prefix and the protocol. Processes of another protocol share no name.
    base: String,
}

/// A queue whose messages are not events, which any process may declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServiceQueue {
    /// Proposals or parked messages of an experiment.
    Plain,
    Dead,
    Holder,
    Retry(u64),
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
        Self { base: format!("{prefix}.{PROTOCOL}") }
    }

    pub(super) fn events(&self) -> String {
        format!("{}.events", self.base)
    }

    pub(super) fn proposals(&self, experiment: &ExperimentId) -> String {
        format!("{}.proposals.{}", self.base, experiment_key(experiment))
    }

    pub(super) fn dead(&self) -> String {
        format!("{}.dead", self.base)
    }

    pub(super) fn parked(&self, experiment: &ExperimentId) -> String {
        format!("{}.parked.{}", self.base, experiment_key(experiment))
    }

    pub(super) fn holder(&self) -> String {
        format!("{}.holder", self.base)
    }

    /// Returns the lock of a connection of the server.
    pub(super) fn lock(&self, connection: &str) -> String {
        format!("{}.lock.{connection}", self.base)
    }

    pub(super) fn history(&self, experiment: &ExperimentId) -> String {
        format!("{}.history.{}", self.base, experiment_key(experiment))
    }

    pub(super) fn retry(&self, delay_ms: u64) -> String {
        format!("{}.retry.{delay_ms}", self.base)
    }

    pub(super) fn repair(&self) -> String {
        format!("{}.repair", self.base)
    }

    /// Returns the queue of a group.
    pub(super) fn group(&self, group: &str) -> Result<String, BrokerError> {
        let begins = RESERVED_BEGINNINGS.iter().any(|beginning| group.starts_with(beginning));
        if begins || RESERVED.contains(&group) {
            let (name, allowed) = (
                group.to_owned(),
                format!(
                    "a name other than {}, and not starting with {}",
                    RESERVED.join(", "),
                    RESERVED_BEGINNINGS.join(", ")
                ),
            );
            return Err(BrokerError::InvalidName { what: "group name", name, allowed });
        }
        Ok(format!("{}.{group}", self.base))
    }

    /// Returns the group of a queue: the inverse of [`Self::group`].
    pub(super) fn group_of<'a>(&self, queue: &'a str) -> Option<&'a str> {
        queue.strip_prefix(self.base.as_str())?.strip_prefix('.')
    }

    /// Returns the kind of a queue that any process may declare; `None` for queues of events and others.
    fn service_queue(&self, queue: &str) -> Option<ServiceQueue> {
        let name = self.group_of(queue)?;
        if name == "dead" {
            return Some(ServiceQueue::Dead);
        }
        if name == "holder" {
            return Some(ServiceQueue::Holder);
        }
        if let Some(delay) = name.strip_prefix("retry.") {
            return delay.parse().ok().map(ServiceQueue::Retry);
        }
        let is_plain = name.starts_with("proposals.") || name.starts_with("parked.");
        is_plain.then_some(ServiceQueue::Plain)
    }

    /// Declares a queue whose messages are not events. Returns false for any other queue: only the server can
    /// declare and fill it.
    pub(super) async fn declare_service(&self, channel: &Channel, queue: &str) -> lapin::Result<bool> {
        let Some(kind) = self.service_queue(queue) else { return Ok(false) };
        match kind {
            ServiceQueue::Plain => self.declare_quorum(channel, queue, &[]).await?,
            ServiceQueue::Retry(delay_ms) => self.declare_retry(channel, delay_ms).await?,
            ServiceQueue::Dead | ServiceQueue::Holder => {
                let most = if kind == ServiceQueue::Dead { DEAD_MESSAGES_MAX } else { 1 };
                let bounded =
                    [("x-max-length", AMQPValue::LongLongInt(most)), ("x-overflow", long("drop-head"))];
                self.declare_quorum(channel, queue, &bounded).await?;
            }
        }
        Ok(true)
    }

    /// Declares the exchange of events. Only the server does: a new exchange has no bindings, and the server
    /// binds all queues before it publishes again.
    pub(super) async fn declare_exchange(&self, channel: &Channel) -> lapin::Result<()> {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = self.events();
        channel.exchange_declare(short(&name), ExchangeKind::Topic, durable, FieldTable::default()).await
    }

    /// Returns the delay of the retry queue for a wished delay: the next of a few delays that double. Thus
    /// the number of retry queues is bounded, and their names are known.
    pub(super) fn retry_delay(delay_ms: u64, most_ms: u64) -> u64 {
        if delay_ms == 0 {
            return 0;
        }
        Self::retry_delays(most_ms).into_iter().find(|&step| step >= delay_ms).unwrap_or(most_ms.max(1))
    }

    /// Returns the delays of all retry queues, ascending.
    pub(super) fn retry_delays(most_ms: u64) -> Vec<u64> {
        let below = (1..HALVINGS).rev().map(|halvings| 1000 >> halvings);
        let above = std::iter::successors(Some(1000_u64), |delay| delay.checked_mul(2));
        let mut delays: Vec<u64> = below.chain(above).take_while(|&delay| delay < most_ms).collect();
        delays.push(most_ms.max(1));
        delays
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
        experiment: Option<&ExperimentId>,
        redeliveries_max: u32,
    ) -> lapin::Result<()> {
        // A group of all experiments has no queue for its parked messages.
        let target = experiment.map_or_else(|| self.dead(), |experiment| self.parked(experiment));
        let arguments = [
            ("x-delivery-limit", AMQPValue::LongLongInt(i64::from(redeliveries_max))),
            ("x-overflow", long("reject-publish")),
            ("x-dead-letter-strategy", long("at-least-once")),
            ("x-dead-letter-exchange", long("")),
            ("x-dead-letter-routing-key", long(&target)),
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

    /// Declares the stream of an experiment's history.
    pub(super) async fn declare_history(&self, channel: &Channel, stream: &str) -> lapin::Result<()> {
        declare_queue(channel, stream, "stream", std::iter::empty()).await
    }
}

/// Declares a queue as a lock: one connection at a time owns it, and it is deleted with the connection. It
/// never holds a message.
pub(super) async fn declare_lock(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let options = QueueDeclareOptions::exclusive();
    channel.queue_declare(short(queue), options, FieldTable::default()).await.map(drop)
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
    code_of(error) == Some(404)
}

/// Whether an error means that another connection owns a queue.
pub(super) fn is_locked(error: &lapin::Error) -> bool {
    code_of(error) == Some(405)
}

/// Returns the code with which RabbitMQ ended a channel or a connection.
pub(super) fn code_of(error: &lapin::Error) -> Option<u16> {
    if let ErrorKind::ProtocolError(error) = error.kind() { Some(error.get_id()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_group_names_are_errors() {
        let topology = Topology::new("dissent");
        for reserved in [
            "dead",
            "holder",
            "events",
            "repair",
            "retry.100",
            "history.x",
            "parked.x",
            "proposals.x",
            "lock.x",
        ] {
            assert!(topology.group(reserved).is_err(), "{reserved}");
        }
        let queue = topology.group("generation.0a").unwrap();
        assert_eq!(queue, "dissent.2.generation.0a");
        assert_eq!(topology.group_of(&queue), Some("generation.0a"));
    }

    #[test]
    fn service_queues_are_known_by_their_names() {
        let (topology, experiment) = (Topology::new("dissent"), ExperimentId::new("x").unwrap());
        for (queue, kind) in [
            (topology.proposals(&experiment), Some(ServiceQueue::Plain)),
            (topology.parked(&experiment), Some(ServiceQueue::Plain)),
            (topology.dead(), Some(ServiceQueue::Dead)),
            (topology.holder(), Some(ServiceQueue::Holder)),
            (topology.retry(250), Some(ServiceQueue::Retry(250))),
            (topology.group("step").unwrap(), None),
            (topology.history(&experiment), None),
            ("other.2.dead".to_owned(), None),
        ] {
            assert_eq!(topology.service_queue(&queue), kind, "{queue}");
        }
    }

    #[test]
    fn retry_delays_are_few_and_never_shorter_than_wished() {
        let delays = Topology::retry_delays(300_000);
        assert!(delays.len() <= 24 && delays.is_sorted(), "{delays:?}");
        for wished in [1, 2, 10, 999, 1000, 1001, 4000, 255_000, 300_000] {
            let delay = Topology::retry_delay(wished, 300_000);
            assert!(delay >= wished && delay <= (2 * wished + 1).min(300_000), "{wished}: {delay}");
            assert!(delays.contains(&delay));
        }
        assert_eq!(Topology::retry_delay(1000, 300_000), 1000);
        assert_eq!((Topology::retry_delay(0, 300_000), Topology::retry_delay(9, 5)), (0, 5));
    }

    #[test]
    fn events_match_only_the_bindings_of_their_experiment() {
        let (one, other) = (ExperimentId::new("a.b").unwrap(), ExperimentId::new("a").unwrap());
        assert_ne!(binding_key(Some(&one), "x.y"), binding_key(Some(&other), "x.y"));
        assert!(!experiment_key(&one).contains('.'), "one word of a topic");
        assert_eq!(binding_key(None, "x.y"), "*.x.y");
    }
}
