//! The broker of a single process: a persistent subscription over the event log. Messages *are* the log's
//! events; all that a group adds is one small record of its progress.

mod bell;
mod consumer;
mod core;
mod group;
mod keeper;
mod record;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dissent_domain::event::EventId;
use dissent_domain::log::{EventLog, LogError};

use self::consumer::{GroupSource, ParkedSource};
use self::core::{Core, Unpark};
use crate::broker::{BoxFuture, Broker, Subscription};
use crate::context::Contexts;
use crate::delivery::{Consumer, MessageContext, ParkedConsumer};
use crate::error::BrokerError;
use crate::proposal::{Answer, Proposal, ProposalConsumer, ProposalSender, proposal_channel};

/// How the embedded broker works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// Events read from the log at a time, 1 to 4096. A group holds at most one and a half pages that it
    /// has not begun.
    pub page_events: usize,
    /// Longest wait between two attempts.
    pub retry_delay_max: Duration,
    /// Least time between two stores of a group's record: what is settled in between is written together.
    pub record_interval: Duration,
    /// Proposals that may lie undecided before proposers have to wait, at least 1.
    pub proposals_max: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            page_events: 256,
            retry_delay_max: Duration::from_secs(300),
            record_interval: Duration::from_millis(5),
            proposals_max: 64,
        }
    }
}

/// Where a group stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its name.
    pub group: String,
    /// Everything up to this position of the log is done with.
    pub checkpoint: u64,
    /// Everything up to this position was looked at.
    pub read_to: u64,
    /// Messages among these that were not begun yet.
    pub waiting: usize,
    /// Messages that are in hand now.
    pub in_hand: usize,
    /// Messages that are in hand, waiting for another attempt, or given back.
    pub unfinished: usize,
    /// Parked messages that nobody has taken note of.
    pub parked: usize,
}

/// The broker inside one process. Clones are handles to the same broker; when the last one is dropped it
/// closes, remembers its progress and ends its thread.
///
/// At most one embedded broker may run over a log at a time.
#[derive(Clone)]
pub struct EmbeddedBroker {
    shared: Arc<Shared>,
}

struct Shared {
    core: Arc<Core>,
    log: Arc<dyn EventLog>,
    contexts: Arc<Contexts>,
    proposals: ProposalSender,
    proposal_consumer: Mutex<Option<ProposalConsumer>>,
    keeper: Mutex<Result<Option<JoinHandle<()>>, BrokerError>>,
}

impl EmbeddedBroker {
    /// A broker over `log`, with one thread that reads the log and writes the groups' records. Options out
    /// of range are brought into it.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, options: EmbeddedOptions) -> Self {
        let (proposals, proposal_consumer) = proposal_channel(options.proposals_max.max(1));
        let options = EmbeddedOptions { page_events: options.page_events.clamp(1, 4096), ..options };
        let core = Arc::new(Core::new(options));
        let keeper = keeper::spawn(&core, &log).map(Some).map_err(|error| {
            BrokerError::Log(LogError::Io(format!("failed to start the thread that reads it: {error}")))
        });
        Self {
            shared: Arc::new(Shared {
                core,
                log,
                contexts: Arc::default(),
                proposals,
                proposal_consumer: Mutex::new(Some(proposal_consumer)),
                keeper: Mutex::new(keeper),
            }),
        }
    }

    /// Where each group stands, in the order in which they were first subscribed to.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        self.shared.core.status()
    }

    fn check_running(&self) -> Result<(), BrokerError> {
        if self.shared.core.is_closing() {
            return Err(self.shared.core.failure().unwrap_or(BrokerError::Closed));
        }
        match &*self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner) {
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
        let (cell, member) = self.shared.core.join(&*self.shared.log, &subscription)?;
        let contexts = Arc::clone(&self.shared.contexts);
        let source = GroupSource::new(Arc::clone(&self.shared.core), cell, member, contexts);
        Ok(Consumer { source: Box::new(source) })
    }

    fn propose_in(
        &self,
        proposal: Proposal,
        context: MessageContext,
    ) -> BoxFuture<'_, Result<Answer, BrokerError>> {
        self.shared.contexts.note(proposal.events.iter().map(|event| event.id), &context);
        Box::pin(self.shared.proposals.propose(proposal, context))
    }

    fn put_in_context(&self, event: EventId, context: &MessageContext) {
        self.shared.contexts.note(std::iter::once(event), context);
    }

    fn proposals(&self) -> Result<ProposalConsumer, BrokerError> {
        let mut consumer = self.shared.proposal_consumer.lock().unwrap_or_else(PoisonError::into_inner);
        consumer.take().ok_or_else(|| {
            BrokerError::Invalid("the proposals already have a consumer: there is one journal".to_owned())
        })
    }

    fn parked(&self) -> Result<ParkedConsumer, BrokerError> {
        self.check_running()?;
        let source = ParkedSource::new(Arc::clone(&self.shared.core));
        Ok(ParkedConsumer { source: Box::new(source) })
    }

    fn unpark<'a>(&'a self, group: &'a str, position: u64) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            self.check_running()?;
            let (order, done) = Unpark::new(group, position);
            self.shared.core.order(order);
            done.await.map_err(|_| BrokerError::Closed)?
        })
    }

    fn close(&self) {
        self.shared.core.close();
    }

    fn drained(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(self.shared.core.drained())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.core.stop();
        let keeper = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Ok(keeper) = keeper
            && let Some(thread) = keeper.take()
        {
            // It ends after at most the read under way and one flush; then the log has the last word on
            // every group, and another broker may start. A panic of it was reported when it happened.
            let _panicked = thread.join();
        }
    }
}
