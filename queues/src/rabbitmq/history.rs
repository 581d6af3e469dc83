//! The history of an experiment, read from its stream by processes that have no log.

use std::collections::BTreeMap;
use std::sync::Arc;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::mpsc;

use super::core::Core;
use super::link::{Backoff, LinkError, next};
use super::topology::{is_absent, long, short};
use super::wire;
use crate::error::BrokerError;

/// Events that wait for their reader, and that RabbitMQ sends unacknowledged.
const AHEAD: u16 = 512;
/// Events kept because one before them is missing: many times what the relay has under way.
const EARLY_MAX: usize = 16_384;

/// The events of one experiment: in the order of their versions, from the first, each once, and only durable ones.
#[derive(Debug)]
pub struct HistoryConsumer {
    incoming: mpsc::Receiver<Result<Recorded, BrokerError>>,
}

impl HistoryConsumer {
    /// The next event; waits for it, and for the server and RabbitMQ where they are away. None once the broker is
    /// closed. Cancellation-safe.
    ///
    /// # Errors
    /// [`BrokerError::Invalid`] if an event is missing for good.
    pub async fn next(&mut self) -> Result<Option<Recorded>, BrokerError> {
        self.incoming.recv().await.transpose()
    }
}

/// Starts reading.
pub(super) fn read(core: &Arc<Core>, experiment: &ExperimentId) -> HistoryConsumer {
    let (outgoing, incoming) = mpsc::channel(usize::from(AHEAD));
    let stream = core.topology.history(experiment);
    let reader = Reader { core: Arc::clone(core), stream, order: InOrder::default(), outgoing };
    core.runtime.spawn(reader.run());
    HistoryConsumer { incoming }
}

struct Reader {
    core: Arc<Core>,
    stream: String,
    order: InOrder,
    outgoing: mpsc::Sender<Result<Recorded, BrokerError>>,
}

impl Reader {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut known_trouble = None;
        let (reader, core) = (self.outgoing.clone(), Arc::clone(&self.core));
        loop {
            let before = self.order.version;
            let outcome = tokio::select! {
                outcome = self.session() => outcome,
                () = reader.closed() => return,
                () = closed(&core) => return,
            };
            let Err(error) = outcome else { return };
            if let LinkError::Broker(error @ BrokerError::Invalid(_)) = error {
                // A reader that is gone does not need to know.
                let _gone = self.outgoing.send(Err(error)).await;
                return;
            }
            if self.order.version > before {
                backoff.reset();
                known_trouble = None;
            }
            let trouble = error.to_string();
            // Once for each kind of trouble: it may last for hours.
            if known_trouble.as_ref() != Some(&trouble) {
                tracing::info!(stream = %self.stream, error = %trouble, "reading the history again soon");
                known_trouble = Some(trouble);
            }
            backoff.wait().await;
        }
    }

    /// One channel's time. It begins at the start of the stream each time: a stream that was made anew has other
    /// offsets, and what was read before is passed over.
    async fn session(&mut self) -> Result<(), LinkError> {
        let link = self.core.consuming.clone();
        let (generation, channel) = link.channel().await?;
        link.within(channel.basic_qos(AHEAD, BasicQosOptions { global: false })).await?;
        let mut arguments = FieldTable::default();
        arguments.insert(short("x-stream-offset"), long("first"));
        let consuming =
            channel.basic_consume(short(&self.stream), short(""), BasicConsumeOptions::default(), arguments);
        let mut consumer = match link.within(consuming).await {
            Err(LinkError::Amqp(error)) if is_absent(&error) => {
                return Err(LinkError::NoQueue(self.stream.clone()));
            }
            outcome => outcome?,
        };
        loop {
            let delivery = tokio::select! {
                delivery = next(&mut consumer) => delivery.ok_or(LinkError::Cancelled)??,
                () = link.lost(generation) => return Err(LinkError::Lost),
            };
            match wire::decode_event(&delivery.data, self.core.options.message_bytes_max) {
                Ok(event) => self.take(event).await?,
                // Whoever can write to the stream can write nonsense; if it was an event, its absence will be seen.
                Err(error) => tracing::warn!(stream = %self.stream, %error, "a message is no event"),
            }
            let one = BasicAckOptions { multiple: false };
            link.within(channel.basic_ack(delivery.delivery_tag, one)).await?;
        }
    }

    async fn take(&mut self, event: Recorded) -> Result<(), LinkError> {
        for event in self.order.take(event)? {
            if self.outgoing.send(Ok(event)).await.is_err() {
                return Err(LinkError::Broker(BrokerError::Closed));
            }
        }
        Ok(())
    }
}

async fn closed(core: &Core) {
    loop {
        let changed = core.changed.notified();
        if core.is_closing() {
            return;
        }
        changed.await;
    }
}

/// Puts events into the order of their versions. After an interruption they come again, and some before others.
#[derive(Debug, Default)]
struct InOrder {
    /// Of the last event that was passed on.
    version: u64,
    early: BTreeMap<u64, Recorded>,
}

impl InOrder {
    /// What can be passed on now.
    fn take(&mut self, event: Recorded) -> Result<Vec<Recorded>, BrokerError> {
        if event.version > self.version {
            self.early.insert(event.version, event);
        }
        let mut ready = Vec::new();
        while let Some(event) = self.early.remove(&(self.version + 1)) {
            self.version = event.version;
            ready.push(event);
        }
        if self.early.len() > EARLY_MAX {
            return Err(BrokerError::Invalid(format!(
                "version {} of the experiment is missing from its history on RabbitMQ: delete the stream, and the \
                 server makes it again from its log",
                self.version + 1
            )));
        }
        Ok(ready)
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::{EventId, NewEvent};
    use proptest::prelude::*;

    use super::*;

    fn event(version: u64) -> Recorded {
        let experiment = ExperimentId::new("x").unwrap();
        let event = NewEvent {
            id: EventId::of_experiment(&experiment).caused("y", u32::try_from(version).unwrap()),
            causation: None,
            actor: "test".to_owned(),
            time_us: 0,
            event_type: "y".to_owned(),
            schema_version: 1,
            body: Vec::new(),
        };
        Recorded { position: version, experiment, version, event }
    }

    proptest! {
        #[test]
        fn shuffled_and_repeated_events_come_out_in_order_and_once(
            versions in Just((1..60).chain(20..40).collect::<Vec<u64>>()).prop_shuffle()
        ) {
            let mut order = InOrder::default();
            let out: Vec<u64> =
                versions.into_iter().flat_map(|v| order.take(event(v)).unwrap()).map(|e| e.version).collect();
            prop_assert_eq!(out, (1..60).collect::<Vec<_>>());
            prop_assert!(order.early.is_empty());
        }
    }

    #[test]
    fn an_event_that_never_comes_is_an_error_that_names_it() {
        let mut order = InOrder::default();
        assert_eq!(order.take(event(1)).unwrap().len(), 1);
        let last = 3 + EARLY_MAX as u64;
        let outcome = (3..=last).map(|version| order.take(event(version))).find(Result::is_err);
        let error = outcome.expect("it is noticed").unwrap_err().to_string();
        assert!(error.contains("version 2 of the experiment"), "{error}");
    }
}
