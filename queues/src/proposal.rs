//! The channel from workers to the journal.

use std::fmt;

use dissent_domain::event::{EventId, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use tokio::sync::{mpsc, oneshot};

use crate::delivery::MessageContext;
use crate::error::BrokerError;
use crate::future::BoxFuture;

/// Maximum number of events of a proposal.
pub const PROPOSAL_EVENTS_MAX: usize = 1024;

/// Events that a step proposes to record.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The experiment they belong to.
    pub experiment: ExperimentId,
    /// The event that the step processed.
    pub cause: Option<EventId>,
    /// The events, in order, 1 to [`PROPOSAL_EVENTS_MAX`]. All are recorded, or none.
    pub events: Vec<NewEvent>,
}

/// The reply to a proposal.
#[derive(Debug, Clone, PartialEq)]
pub enum ProposalReply {
    /// The events are durable in the log, as given here. They may stem from an earlier proposal of the same
    /// ids.
    Recorded(Vec<Recorded>),
    /// The rules reject the proposal. Proposing the same again is pointless.
    Rejected {
        /// The reason as text.
        reason: String,
    },
    /// The proposal itself is durable; the journal will decide it later.
    Queued,
    /// The journal holds too many proposals of the experiment and decided nothing: propose the same again
    /// after a moment. A proposer in another process never gets this reply, because the broker delivers its
    /// proposal again after a delay.
    RetryLater,
}

/// The journal's end of the channel. It ends when no handle can propose any more.
#[derive(Debug)]
pub struct ProposalConsumer {
    pub(crate) incoming: mpsc::Receiver<ProposalDelivery>,
}

impl ProposalConsumer {
    /// Returns the next proposal; `None` once every handle of the broker is dropped. Cancellation-safe.
    pub async fn next(&mut self) -> Option<ProposalDelivery> {
        self.incoming.recv().await
    }

    /// Returns a waiting proposal, so that the journal can decide several in one batch.
    pub fn try_next(&mut self) -> Option<ProposalDelivery> {
        self.incoming.try_recv().ok()
    }
}

/// A proposal, delivered to the journal.
///
/// If it is dropped without a reply, its proposer gets [`BrokerError::Closed`] and may propose again. A
/// proposal of another process is redelivered.
#[derive(Debug)]
pub struct ProposalDelivery {
    /// The proposal.
    pub proposal: Proposal,
    /// The context in which it was made.
    pub context: MessageContext,
    pub(crate) reply: Reply,
}

/// The channel back to the proposer.
pub(crate) enum Reply {
    /// The proposer waits in this process.
    Local(oneshot::Sender<ProposalReply>),
    /// The proposer is in another process and does not wait.
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

/// The reply to a proposal from another process.
pub(crate) trait RemoteReply: Send + Sync {
    /// Settles it. A drop releases it.
    fn answer(self: Box<Self>, answer: ProposalReply) -> BoxFuture<'static, Result<(), BrokerError>>;
}

impl ProposalDelivery {
    /// Replies to the proposer. A proposer that no longer waits is not an error.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker cannot take the reply: the proposal will be redelivered.
    pub async fn answer(self, answer: ProposalReply) -> Result<(), BrokerError> {
        match self.reply {
            Reply::Local(reply) => {
                // The proposer may be gone. The decision stands in the log all the same.
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

/// Returns a bounded channel: proposers wait while `capacity` proposals are undecided.
pub(crate) fn proposal_channel(capacity: usize) -> (ProposalSender, ProposalConsumer) {
    let (outgoing, incoming) = mpsc::channel(capacity);
    (ProposalSender { outgoing }, ProposalConsumer { incoming })
}

impl Proposal {
    /// Checks the number of events.
    pub(crate) fn check(&self) -> Result<(), BrokerError> {
        if (1..=PROPOSAL_EVENTS_MAX).contains(&self.events.len()) {
            return Ok(());
        }
        let what = format!("proposal for {}: number of events", self.experiment);
        Err(BrokerError::out_of_range(what, self.events.len(), format!("1 to {PROPOSAL_EVENTS_MAX}")))
    }
}

impl ProposalSender {
    /// Returns the sender, for proposals that come from another process.
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
