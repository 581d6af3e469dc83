//! The history of an experiment as a stream. Workers without a log build the experiment's state from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use dissent_domain::error::chain;
use dissent_domain::event::{EventId, Recorded};
use dissent_domain::id::ExperimentId;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::link::{BACKOFF, next};
use super::link_error::LinkError;
use super::shared::Shared;
use super::topology::{is_absent, long, short};
use super::wire;
use crate::backoff::Retries;
use crate::error::{BrokerError, HistoryFault};

/// Prefetch of the stream, and the number of deliveries after which they are acknowledged.
const AHEAD: u16 = 128;
const ACK_EVERY: u64 = 32;
/// Maximum number of events that were read and not yet returned.
const READY_MAX: usize = 128;
/// Maximum number of events that arrived before a predecessor. The relay never has more unconfirmed events.
const EARLY_MAX: usize = 8192;

/// The events of an experiment in order, from the first: each once, without gaps, over any number of
/// connections.
#[derive(Debug)]
pub struct HistoryConsumer {
    incoming: mpsc::Receiver<Result<Recorded, BrokerError>>,
    reader: JoinHandle<()>,
}

impl HistoryConsumer {
    pub(super) fn start(shared: &Arc<Shared>, experiment: &ExperimentId) -> Self {
        let (outgoing, incoming) = mpsc::channel(READY_MAX);
        let stream = shared.topology.history(experiment);
        let sequence = Sequence::new(experiment.clone());
        let reader = Reader { shared: Arc::clone(shared), stream, sequence, outgoing };
        Self { incoming, reader: shared.runtime.spawn(reader.run()) }
    }

    /// Returns the next event; waits until there is one. Returns `None` once the broker closed.
    /// Cancellation-safe.
    ///
    /// # Errors
    /// [`BrokerError::BrokenHistory`] if the stream is not one history. No event follows then.
    pub async fn next(&mut self) -> Result<Option<Recorded>, BrokerError> {
        self.incoming.recv().await.transpose()
    }
}

impl Drop for HistoryConsumer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Puts events in order. Pure.
struct Sequence {
    experiment: ExperimentId,
    /// The last event that was returned.
    last: Option<(u64, EventId)>,
    early: BTreeMap<u64, Recorded>,
}

impl Sequence {
    fn new(experiment: ExperimentId) -> Self {
        Self { experiment, last: None, early: BTreeMap::new() }
    }

    /// Adds an event; returns the events that are next.
    fn add(&mut self, event: Recorded) -> Result<Vec<Recorded>, BrokerError> {
        let broken = |fault| Err(BrokerError::BrokenHistory { experiment: self.experiment.clone(), fault });
        if event.experiment != self.experiment {
            return broken(HistoryFault::Foreign(event.experiment));
        }
        if self.last.is_some_and(|(version, id)| version == event.version && id != event.event.id) {
            return broken(HistoryFault::Twice(event.version));
        }
        let done_to = self.last.map_or(0, |(version, _)| version);
        if event.version <= done_to {
            return Ok(Vec::new());
        }
        self.early.insert(event.version, event);
        let mut next = Vec::new();
        while let Some(event) = self.early.remove(&(self.last.map_or(0, |(version, _)| version) + 1)) {
            self.last = Some((event.version, event.event.id));
            next.push(event);
        }
        if self.early.len() > EARLY_MAX {
            let missing = self.last.map_or(0, |(version, _)| version) + 1;
            let (experiment, fault) = (self.experiment.clone(), HistoryFault::Missing(missing));
            return Err(BrokerError::BrokenHistory { experiment, fault });
        }
        Ok(next)
    }
}

/// The task that reads the stream.
struct Reader {
    shared: Arc<Shared>,
    stream: String,
    sequence: Sequence,
    outgoing: mpsc::Sender<Result<Recorded, BrokerError>>,
}

impl Reader {
    async fn run(mut self) {
        let mut retries = Retries::new(BACKOFF);
        let mut last_trouble = None;
        while !self.shared.is_closing() {
            let shared = Arc::clone(&self.shared);
            let trouble = tokio::select! {
                trouble = self.session(&mut retries) => trouble,
                () = shared.closed() => return,
            };
            if let LinkError::Broker(error) = trouble {
                // The consumer may be gone.
                let _gone = self.outgoing.send(Err(error)).await;
                return;
            }
            let trouble = chain(&trouble);
            // Log each new error once: an outage may last for hours.
            if last_trouble.as_ref() != Some(&trouble) {
                tracing::info!(stream = %self.stream, error = %trouble, "retrying the read of the history");
                last_trouble = Some(trouble);
            }
            retries.wait().await;
        }
    }

    /// Reads from the first event at each connection: the stream may have been filled again.
    async fn session(&mut self, retries: &mut Retries) -> LinkError {
        match self.read(retries).await {
            Ok(()) => LinkError::Cancelled,
            Err(error) => error,
        }
    }

    async fn read(&mut self, retries: &mut Retries) -> Result<(), LinkError> {
        let link = self.shared.consuming.clone();
        let (generation, channel) = link.channel().await?;
        link.within(channel.basic_qos(AHEAD, BasicQosOptions { global: false })).await?;
        let mut first = FieldTable::default();
        first.insert(short("x-stream-offset"), long("first"));
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(short(&self.stream), short(""), options, first);
        let mut consumer = match link.within(consuming).await {
            Err(LinkError::Amqp(error)) if is_absent(&error) => {
                return Err(LinkError::NoQueue(self.stream.clone()));
            }
            outcome => outcome?,
        };
        loop {
            let delivery = tokio::select! {
                delivery = next(&mut consumer) => delivery,
                () = link.lost(generation) => return Err(LinkError::Lost),
            };
            let Some(delivery) = delivery else { return Ok(()) };
            let delivery = delivery?;
            retries.reset();
            match wire::decode_event(&delivery.data, self.shared.options.message_bytes_max) {
                Ok(event) => {
                    for event in self.sequence.add(event)? {
                        if self.outgoing.send(Ok(event)).await.is_err() {
                            return Err(BrokerError::Closed.into());
                        }
                    }
                }
                // An intact copy may follow. If none does, the gap becomes an error.
                Err(error) => tracing::warn!(stream = %self.stream, %error, "skipping an unreadable message"),
            }
            if delivery.delivery_tag.is_multiple_of(ACK_EVERY) {
                let multiple = BasicAckOptions { multiple: true };
                link.within(channel.basic_ack(delivery.delivery_tag, multiple)).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dissent_domain::event::NewEvent;
    use proptest::prelude::*;

    fn event(version: u64, id: u32) -> Recorded {
        let experiment = ExperimentId::new("x").unwrap();
        let event = NewEvent {
            id: EventId::of_experiment(&experiment).caused("e", id),
            causation: None,
            actor: String::new(),
            time_us: 0,
            event_type: "e".to_owned(),
            schema_version: 1,
            body: Vec::new(),
        };
        Recorded { position: version, experiment, version, event }
    }

    fn sequence() -> Sequence {
        Sequence::new(ExperimentId::new("x").unwrap())
    }

    proptest! {
        #[test]
        fn events_come_out_once_and_in_order_from_any_order_and_duplicates(
            order in prop::collection::vec(1u64..20, 0..60),
        ) {
            let mut sequence = sequence();
            let mut out = Vec::new();
            let rest = 1..20u64;
            for version in order.into_iter().chain(rest) {
                let next = sequence.add(event(version, u32::try_from(version).unwrap())).unwrap();
                out.extend(next.into_iter().map(|event| event.version));
            }
            prop_assert_eq!(out, (1..20).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn two_histories_in_one_stream_are_an_error() {
        let mut sequence = sequence();
        sequence.add(event(1, 1)).unwrap();
        let error = sequence.add(event(1, 2)).unwrap_err();
        assert!(matches!(error, BrokerError::BrokenHistory { fault: HistoryFault::Twice(1), .. }), "{error}");
        let other = Recorded { experiment: ExperimentId::new("y").unwrap(), ..event(2, 2) };
        let error = sequence.add(other).unwrap_err();
        assert!(
            matches!(error, BrokerError::BrokenHistory { fault: HistoryFault::Foreign(_), .. }),
            "{error}"
        );
    }

    #[test]
    fn a_lasting_gap_is_an_error_that_names_the_missing_event() {
        let mut sequence = sequence();
        let error = (2..).find_map(|version| sequence.add(event(version, 0)).err()).unwrap();
        assert!(
            matches!(error, BrokerError::BrokenHistory { fault: HistoryFault::Missing(1), .. }),
            "{error}"
        );
    }
}
