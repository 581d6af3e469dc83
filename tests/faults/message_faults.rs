//! Publishes duplicate, reordered and damaged messages to the queues of an experiment.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use dissent_domain::event::{EventId, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_queues::{Broker as _, Proposal, RabbitBroker, RabbitOptions};
use futures_core::Stream as _;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, Consumer};
use tokio::time::Instant;

use crate::amqp::{self, persistent, publish};
use crate::support::random::Random;

/// Groups of the steps.
pub(crate) const STEPS: [&str; 8] =
    ["prompt", "generation", "reward", "conflict", "round", "feedback", "training", "evaluation"];
/// Name of the consumer that reads the history.
const READER: &str = "faults";
/// Messages that a fault publishes.
const MESSAGES: usize = 24;
/// Time to read the history.
const READ: Duration = Duration::from_millis(500);
/// Longest wait for the stream of the history.
const STREAM_MAX: Duration = Duration::from_secs(20);
/// Pause between two attempts to find a stream.
const PAUSE: Duration = Duration::from_millis(250);

/// Publishes faulty messages to the queues of one experiment.
pub(crate) struct MessageFaults {
    url: String,
    prefix: String,
    experiment: ExperimentId,
}

impl MessageFaults {
    pub(crate) fn new(url: String, prefix: String, experiment: &str) -> Self {
        Self { url, prefix, experiment: ExperimentId::new(experiment).unwrap() }
    }

    fn queue(&self, name: &str) -> String {
        format!("{}.2.{name}.{}", self.prefix, EventId::of_experiment(&self.experiment).0.simple())
    }

    fn groups(&self) -> Vec<String> {
        STEPS.iter().map(|step| self.queue(step)).collect()
    }

    /// Opens a channel when the stream of the history is available. After a crash, RabbitMQ accepts
    /// connections before that. Returns `None` if it stays away: an ended experiment has no queues.
    async fn channel(&self) -> Option<(Connection, Channel)> {
        let stream = self.queue("history");
        let until = Instant::now() + STREAM_MAX;
        while Instant::now() < until {
            let (connection, channel) = amqp::connect(&self.url).await;
            let passive = QueueDeclareOptions::durable().passive();
            // A stream can be declared before it can be read.
            if channel.queue_declare(stream.as_str().into(), passive, FieldTable::default()).await.is_ok()
                && self.consume(&channel).await.is_ok()
            {
                channel.basic_cancel(READER.into(), Default::default()).await.unwrap();
                return Some((connection, channel));
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }

    /// Publishes events to their groups again, and proposes recorded events again. As the others, returns
    /// `None` if the experiment has no queues any more.
    pub(crate) fn duplicate(&self, random: &mut Random) -> Option<()> {
        amqp::run(async {
            let (_connection, channel) = self.channel().await?;
            let events = self.history(&channel).await;
            for _ in 0..MESSAGES.min(events.len()) {
                let event = random.one_of(&events);
                let (exchange, key) = (event.exchange.as_str(), event.routing_key.as_str());
                let events = format!("{}.2.events", self.prefix);
                // The events that fill a new stream are published without the exchange.
                let exchange = if exchange.is_empty() { &events } else { exchange };
                publish(&channel, exchange, key, &event.data, event.properties.clone()).await;
            }
            self.propose(|recorded| recorded.event, random).await;
            Some(())
        })
    }

    /// Publishes events again in another order, to random groups, as new messages.
    pub(crate) fn reorder(&self, random: &mut Random) -> Option<()> {
        amqp::run(async {
            let (_connection, channel) = self.channel().await?;
            let mut events = self.history(&channel).await;
            random.shuffle(&mut events);
            for event in events.iter().take(MESSAGES) {
                let queue = random.one_of(&self.groups()).clone();
                publish(&channel, "", &queue, &event.data, persistent()).await;
            }
            Some(())
        })
    }

    /// Publishes damaged events and random bytes to every queue, and proposes events that the rules forbid.
    pub(crate) fn corrupt(&self, random: &mut Random) -> Option<()> {
        amqp::run(async {
            let (_connection, channel) = self.channel().await?;
            let events = self.history(&channel).await;
            let mut queues = self.groups();
            queues.extend(["proposals", "parked", "history"].map(|name| self.queue(name)));
            for number in 0..MESSAGES {
                let mut body = match events.is_empty() {
                    true => Vec::new(),
                    false => random.one_of(&events).data.clone(),
                };
                match number % 4 {
                    0 if !body.is_empty() => {
                        let at = random.below(body.len());
                        body[at] ^= 1 << random.below(8);
                    }
                    1 => body.truncate(random.below(body.len() + 1).saturating_sub(1)),
                    2 => body.clear(),
                    _ => {
                        body = vec![0; random.below(4096)];
                        random.fill(&mut body);
                    }
                }
                let queue = random.one_of(&queues).clone();
                publish(&channel, "", &queue, &body, persistent()).await;
            }
            // The rules forbid a repeated event under a new id, and an unreadable event.
            self.propose(|recorded| renamed(recorded.event), random).await;
            self.propose(|recorded| NewEvent { body: vec![0xc1], ..renamed(recorded.event) }, random).await;
            Some(())
        })
    }

    /// Proposes some events of the history, each changed by `as_event`.
    async fn propose(&self, as_event: impl Fn(Recorded) -> NewEvent, random: &mut Random) {
        let mut options = RabbitOptions::from_url(&self.url).unwrap();
        options.prefix.clone_from(&self.prefix);
        let worker = RabbitBroker::connect_worker(options).await.unwrap();
        let mut history = worker.history(&self.experiment).await.unwrap();
        let mut events = Vec::new();
        let until = Instant::now() + READ;
        while let Ok(next) = tokio::time::timeout_at(until, history.next()).await {
            events.extend(next.unwrap());
        }
        for _ in 0..MESSAGES.min(events.len()) {
            let recorded = random.one_of(&events).clone();
            // The rules allow another heartbeat.
            if recorded.event.event_type == "training.progressed" {
                continue;
            }
            let (experiment, cause) = (self.experiment.clone(), recorded.event.causation);
            let events = vec![as_event(recorded)];
            worker.propose(Proposal { experiment, cause, events }).await.unwrap();
        }
    }

    /// Reads the stream of the history from its beginning.
    async fn consume(&self, channel: &Channel) -> lapin::Result<Consumer> {
        channel.basic_qos(100, BasicQosOptions::default()).await?;
        let mut first = FieldTable::default();
        first.insert("x-stream-offset".into(), AMQPValue::LongString(LongString::from("first")));
        let stream = self.queue("history");
        channel
            .basic_consume(stream.as_str().into(), READER.into(), BasicConsumeOptions::default(), first)
            .await
    }

    /// Returns the messages in the stream of the history.
    async fn history(&self, channel: &Channel) -> Vec<Delivery> {
        let mut consumer = self.consume(channel).await.unwrap();
        let mut found = Vec::new();
        let mut next = async || poll_fn(|context| Pin::new(&mut consumer).poll_next(context)).await;
        let until = Instant::now() + READ;
        while let Ok(Some(delivery)) = tokio::time::timeout_at(until, next()).await {
            let delivery = delivery.unwrap();
            delivery.ack(Default::default()).await.unwrap();
            found.push(delivery);
        }
        channel.basic_cancel(READER.into(), Default::default()).await.unwrap();
        found
    }
}

/// Returns the event under an id that is not in the log.
fn renamed(event: NewEvent) -> NewEvent {
    NewEvent { id: event.id.caused("faults", 0), ..event }
}
