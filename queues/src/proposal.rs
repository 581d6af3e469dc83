//! The way from workers to the journal.

use std::fmt;

use dissent_domain::event::{EventId, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use tokio::sync::{mpsc, oneshot};

use crate::delivery::MessageContext;
use crate::error::BrokerError;
use crate::future::BoxFuture;

/// Most events in one proposal.
pub const PROPOSAL_EVENTS_MAX: usize = 1024;

/// Events that a step wants to be true.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The experiment they belong to.
    pub experiment: ExperimentId,
    /// The event that the step worked on.
    pub cause: Option<EventId>,
    /// The events, in order, 1 to [`PROPOSAL_EVENTS_MAX`]: all are recorded, or none.
    pub events: Vec<NewEvent>,
}

/// What the journal made of a proposal.
#[derive(Debug, Clone, PartialEq)]
pub enum ProposalReply {
    /// They are in the log, durably, as given here (now, or since an earlier proposal of the same ids).
    Recorded(Vec<Recorded>),
    /// The rules say no. Proposing the same again is pointless.
    Rejected {
        /// Why, for a person to read.
        reason: String,
    },
    /// The proposal itself is durable; the journal will decide it later.
    Queued,
}

/// The journal's end of the way. It ends when nobody can propose any more.
#[derive(Debug)]
pub struct ProposalConsumer {
    pub(crate) incoming: mpsc::Receiver<ProposalDelivery>,
}

impl ProposalConsumer {
    /// The next proposal; none once every handle of the broker is gone. Cancellation-safe.
    pub async fn next(&mut self) -> Option<ProposalDelivery> {
        self.incoming.recv().await
    }

    /// A proposal that is already here, so that the journal can decide several in one batch.
    pub fn try_next(&mut self) -> Option<ProposalDelivery> {
        self.incoming.try_recv().ok()
    }
}

/// A proposal in the journal's hands. Dropped without an answer, its proposer sees
/// [`BrokerError::Closed`] and may propose it again; one of another process comes again by itself.
#[derive(Debug)]
pub struct ProposalDelivery {
    /// The proposal.
    pub proposal: Proposal,
    /// The context in which it was made.
    pub context: MessageContext,
    pub(crate) reply: Reply,
}

/// The way back to the proposer.
pub(crate) enum Reply {
    /// It waits in this process.
    Local(oneshot::Sender<ProposalReply>),
    /// It is in another process and does not wait.
    Remote(Box<dyn RemoteReply>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local(_) => "Local",
            Self::Remote(_) => "Remote",
        })
    }
}

/// What becomes of a proposal from another process.
pub(crate) trait RemoteReply: Send + Sync {
    /// Settles it. Dropping gives it back.
    fn answer(self: Box<Self>, answer: ProposalReply) -> BoxFuture<'static, Result<(), BrokerError>>;
}

impl ProposalDelivery {
    /// Tells the proposer. A proposer that no longer waits is no error: it asks again if it cares.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker cannot take the answer: the proposal will come again.
    pub async fn answer(self, answer: ProposalReply) -> Result<(), BrokerError> {
        match self.reply {
            Reply::Local(reply) => {
                // The proposer may have been cancelled; the decision stands in the log all the same.
                let _gone = reply.send(answer);
                Ok(())
            }
            Reply::Remote(reply) => reply.answer(answer).await,
        }
    }
}

/// The workers' end, inside one process.
#[derive(Debug, Clone)]
pub(crate) struct ProposalSender {
    outgoing: mpsc::Sender<ProposalDelivery>,
}

/// A bounded way: proposers wait while `capacity` proposals lie undecided before the journal.
pub(crate) fn proposal_channel(capacity: usize) -> (ProposalSender, ProposalConsumer) {
    let (outgoing, incoming) = mpsc::channel(capacity);
    (ProposalSender { outgoing }, ProposalConsumer { incoming })
}

impl Proposal {
    /// Checks the number of its events.
    pub(crate) fn check(&self) -> Result<(), BrokerError> {
        if (1..=PROPOSAL_EVENTS_MAX).contains(&self.events.len()) {
            return Ok(());
        }
        Err(BrokerError::Invalid(format!(
            "a proposal of {} events for {}: propose 1 to {PROPOSAL_EVENTS_MAX}",
            self.events.len(),
            self.experiment
        )))
    }
}

impl ProposalSender {
    /// The channel itself, for proposals that come another way.
    pub(crate) fn outgoing(&self) -> mpsc::Sender<ProposalDelivery> {
        self.outgoing.clone()
    }

    pub(crate) async fn propose(
        &self,
        proposal: Proposal,
        context: MessageContext,
    ) -> Result<ProposalReply, BrokerError> {
        proposal.check()?;
        let (reply, answer) = oneshot::channel();
        let delivery = ProposalDelivery { proposal, context, reply: Reply::Local(reply) };
        self.outgoing.send(delivery).await.map_err(|_| BrokerError::Closed)?;
        answer.await.map_err(|_| BrokerError::Closed)
    }
}
