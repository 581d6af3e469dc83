//! The way from workers to the journal.

use dissent_domain::event::{EventId, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use tokio::sync::{mpsc, oneshot};

use crate::error::BrokerError;

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
pub enum Answer {
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
/// [`BrokerError::Closed`] and may propose it again.
#[derive(Debug)]
pub struct ProposalDelivery {
    /// The proposal.
    pub proposal: Proposal,
    pub(crate) reply: oneshot::Sender<Answer>,
}

impl ProposalDelivery {
    /// Tells the proposer. A proposer that no longer waits is no error: it asks again if it cares.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker cannot take the answer: the proposal will come again.
    pub async fn answer(self, answer: Answer) -> Result<(), BrokerError> {
        // The proposer may have been cancelled; the decision stands in the log all the same.
        let _gone = self.reply.send(answer);
        Ok(())
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

impl ProposalSender {
    pub(crate) async fn propose(&self, proposal: Proposal) -> Result<Answer, BrokerError> {
        if proposal.events.is_empty() || proposal.events.len() > PROPOSAL_EVENTS_MAX {
            return Err(BrokerError::Invalid(format!(
                "a proposal of {} events for {}: propose 1 to {PROPOSAL_EVENTS_MAX}",
                proposal.events.len(),
                proposal.experiment
            )));
        }
        let (reply, answer) = oneshot::channel();
        let delivery = ProposalDelivery { proposal, reply };
        self.outgoing.send(delivery).await.map_err(|_| BrokerError::Closed)?;
        answer.await.map_err(|_| BrokerError::Closed)
    }
}
