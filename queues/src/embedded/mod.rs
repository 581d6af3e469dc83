//! The broker of a single process: a persistent subscription over the event log. The messages *are* the log's
//! events. A group adds one small record of its progress.

mod consumer;
mod group;
mod io_thread;
mod leave;
mod leave_request;
#[cfg(test)]
#[path = "../../tests/broker/memory_log.rs"]
#[allow(dead_code, reason = "the tests of this module need only a part of it")]
mod memory_log;
mod options;
mod page;
mod record;
mod shared;
mod status;
mod wakeup;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use dissent_domain::error::Cause;
use dissent_domain::event::EventId;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;

use self::consumer::{GroupSource, ParkedSource};
pub use self::options::EmbeddedOptions;
use self::shared::{Shared, UnparkRequest};
pub use self::status::GroupStatus;
use crate::broker::{Broker, Subscription};
use crate::context::Contexts;
use crate::delivery::{Consumer, MessageContext, ParkedConsumer};
use crate::error::BrokerError;
use crate::future::BoxFuture;
use crate::proposal::{Proposal, ProposalConsumer, ProposalReply, ProposalSender, proposal_channel};

/// The broker inside one process. Clones are handles to the same broker. When the last handle is dropped, the
/// broker closes, stores its progress and ends its thread.
///
/// At most one embedded broker may run over a log at a time.
///
/// ```
/// # use dissent_domain::event::{EventId, NewEvent, Recorded, RoundClosed};
/// # use dissent_domain::id::ExperimentId;
/// # use dissent_domain::log::{AdvanceListener, Append, AppendFuture, EventLog, LogError};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use dissent_domain::event::EventType;
/// use dissent_queues::{Broker, EmbeddedBroker, EmbeddedOptions, Subscription};
/// #
/// # /// A log with two events, in memory.
/// # struct ExampleLog(Vec<Recorded>);
/// #
/// # impl EventLog for ExampleLog {
/// #     fn append(&self, _: Append) -> AppendFuture {
/// #         Box::pin(std::future::ready(Err(LogError::Closed)))
/// #     }
/// #     fn read(&self, after: u64, limit: usize) -> Result<Vec<Recorded>, LogError> {
/// #         Ok(self.0.iter().filter(|event| event.position > after).take(limit).cloned().collect())
/// #     }
/// #     fn read_stream(
/// #         &self,
/// #         _: &ExperimentId,
/// #         after: u64,
/// #         limit: usize,
/// #     ) -> Result<Vec<Recorded>, LogError> {
/// #         self.read(after, limit)
/// #     }
/// #     fn find(&self, id: EventId) -> Result<Option<Recorded>, LogError> {
/// #         Ok(self.0.iter().find(|event| event.event.id == id).cloned())
/// #     }
/// #     fn streams(&self) -> Result<Vec<(ExperimentId, u64)>, LogError> {
/// #         Ok(Vec::new())
/// #     }
/// #     fn head(&self) -> u64 {
/// #         self.0.len() as u64
/// #     }
/// #     fn on_advance(&self, _: AdvanceListener) {}
/// #     fn store_cursor(&self, _: &str, _: Vec<u8>) -> Result<(), LogError> {
/// #         Ok(())
/// #     }
/// #     fn load_cursor(&self, _: &str) -> Result<Option<Vec<u8>>, LogError> {
/// #         Ok(None)
/// #     }
/// #     fn flush(&self) -> Result<(), LogError> {
/// #         Ok(())
/// #     }
/// # }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let experiment = ExperimentId::new("demo")?;
/// # let mut events = Vec::new();
/// # for round in 0..2 {
/// #     let id = EventId::of_experiment(&experiment).caused("example", round);
/// #     let event = NewEvent::new(id, None, "example", 0, &RoundClosed { round }.into())?;
/// #     let position = u64::from(round) + 1;
/// #     events.push(Recorded { position, experiment: experiment.clone(), version: position, event });
/// # }
/// # let log = Arc::new(ExampleLog(events));
/// // `log` holds two events of the type that the group takes.
/// let broker = EmbeddedBroker::new(log, EmbeddedOptions::default());
/// let mut consumer = broker.subscribe(Subscription {
///     group: "watcher".to_owned(),
///     experiment: None,
///     kinds: &[EventType::RoundClosed],
///     prefetch: 1,
///     delivery_limit: 3,
///     retry_delay: Duration::from_secs(1),
/// })?;
///
/// for position in 1..=2 {
///     let delivery = consumer.next().await.ok_or("the broker closed")?;
///     assert_eq!((delivery.event.position, delivery.attempt), (position, 1));
///     // Acknowledge when all consequences of the event are durable.
///     delivery.ack().await?;
/// }
///
/// broker.close();
/// assert!(consumer.next().await.is_none());
/// broker.drained().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EmbeddedBroker {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    log: Arc<dyn EventLog>,
    contexts: Arc<Contexts>,
    proposals: ProposalSender,
    proposal_consumer: Mutex<Option<ProposalConsumer>>,
    io_thread: Mutex<Result<Option<JoinHandle<()>>, BrokerError>>,
}

impl EmbeddedBroker {
    /// Starts a broker over `log`, with one thread that reads the log and writes the records of the groups.
    /// Options out of range are clamped.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, options: EmbeddedOptions) -> Self {
        let (proposals, proposal_consumer) = proposal_channel(options.proposals_max.max(1));
        let options = EmbeddedOptions { page_events: options.page_events.clamp(1, 4096), ..options };
        let shared = Arc::new(Shared::new(options));
        let io_thread = io_thread::spawn(&shared, &log)
            .map(Some)
            .map_err(|error| BrokerError::Threads(Cause::new(error)));
        Self {
            inner: Arc::new(Inner {
                shared,
                log,
                contexts: Arc::default(),
                proposals,
                proposal_consumer: Mutex::new(Some(proposal_consumer)),
                io_thread: Mutex::new(io_thread),
            }),
        }
    }

    /// Returns the status of each group, in the order of their first subscription.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        self.inner.shared.status()
    }

    fn check_running(&self) -> Result<(), BrokerError> {
        if self.inner.shared.is_closing() {
            return Err(self.inner.shared.failure().unwrap_or(BrokerError::Closed));
        }
        match &*self.inner.io_thread.lock().unwrap_or_else(PoisonError::into_inner) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.clone()),
        }
    }
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBroker").field("groups", &self.status()).finish_non_exhaustive()
    }
}

impl Broker for EmbeddedBroker {
    fn subscribe(&self, subscription: Subscription) -> Result<Consumer, BrokerError> {
        self.check_running()?;
        subscription.check()?;
        let (cell, member) = self.inner.shared.join(&*self.inner.log, &subscription)?;
        let contexts = Arc::clone(&self.inner.contexts);
        let source = GroupSource::new(Arc::clone(&self.inner.shared), cell, member, contexts);
        Ok(Consumer { source: Box::new(source) })
    }

    fn propose_in(
        &self,
        proposal: Proposal,
        context: MessageContext,
    ) -> BoxFuture<'_, Result<ProposalReply, BrokerError>> {
        self.inner.contexts.note(proposal.events.iter().map(|event| event.id), &context);
        Box::pin(self.inner.proposals.propose(proposal, context))
    }

    fn put_in_context(&self, event: EventId, context: &MessageContext) {
        self.inner.contexts.note(std::iter::once(event), context);
    }

    fn proposals(&self) -> Result<ProposalConsumer, BrokerError> {
        let mut consumer = self.inner.proposal_consumer.lock().unwrap_or_else(PoisonError::into_inner);
        consumer.take().ok_or(BrokerError::ProposalsTaken)
    }

    fn host(&self, experiment: &ExperimentId) -> Result<(), BrokerError> {
        self.check_running()?;
        self.inner.shared.check_staying(experiment)
    }

    fn parked(&self, experiment: &ExperimentId) -> Result<ParkedConsumer, BrokerError> {
        self.host(experiment)?;
        let source = ParkedSource::new(Arc::clone(&self.inner.shared), experiment.clone());
        Ok(ParkedConsumer { source: Box::new(source) })
    }

    fn leave<'a>(&'a self, experiment: &'a ExperimentId) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            if self.inner.shared.is_stopping() {
                return Err(self.inner.shared.failure().unwrap_or(BrokerError::Closed));
            }
            let left = self.inner.shared.request_leave(experiment);
            left.await.map_err(|_| BrokerError::Closed)?
        })
    }

    fn unpark<'a>(&'a self, group: &'a str, position: u64) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            self.check_running()?;
            let (request, done) = UnparkRequest::new(group, position);
            self.inner.shared.request_unpark(request);
            done.await.map_err(|_| BrokerError::Closed)?
        })
    }

    fn close(&self) {
        self.inner.shared.close();
    }

    fn drained(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(self.inner.shared.drained())
    }

    fn abandon(&self) {}
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop();
        let io_thread = self.io_thread.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Ok(io_thread) = io_thread
            && let Some(thread) = io_thread.take()
        {
            // The thread ends after at most one read and one flush. Then the log holds the last record of
            // every group, and another broker may start. A panic of the thread was reported when it happened.
            let _panicked = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
