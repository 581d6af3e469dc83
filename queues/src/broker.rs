//! The contract between actors and any broker.

use std::time::Duration;

use dissent_domain::event::{EventId, EventType};
use dissent_domain::id::ExperimentId;

use crate::delivery::{Consumer, MessageContext, ParkedConsumer};
use crate::error::BrokerError;
use crate::future::BoxFuture;
use crate::proposal::{Proposal, ProposalConsumer, ProposalReply};

/// Longest name of a group, in bytes.
pub const GROUP_BYTES_MAX: usize = 64;
/// Largest prefetch: unsettled deliveries of one consumer.
pub const PREFETCH_MAX: usize = 128;

/// The request of a consumer to join a group. All consumers of a group share its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Name of the queue, for example `generation`: 1 to [`GROUP_BYTES_MAX`] of `[a-z0-9._-]`. Progress is
    /// stored under it.
    pub group: String,
    /// The experiment whose events are delivered; `None` for all experiments.
    pub experiment: Option<ExperimentId>,
    /// The event types to deliver, at least one.
    pub kinds: &'static [EventType],
    /// Maximum number of unsettled deliveries of this consumer, 1 to [`PREFETCH_MAX`]. With 1 and a single
    /// consumer, messages come in log order, except for retries.
    pub prefetch: usize,
    /// Failed attempts after which a message is parked, at least 1.
    pub delivery_limit: u32,
    /// Delay before the second attempt. It doubles with each further attempt, up to the broker's maximum.
    pub retry_delay: Duration,
}

impl Subscription {
    /// Checks the limits of each field.
    ///
    /// # Errors
    /// [`BrokerError::InvalidName`] or [`BrokerError::OutOfRange`].
    pub fn check(&self) -> Result<(), BrokerError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        if self.group.is_empty() || self.group.len() > GROUP_BYTES_MAX || !self.group.chars().all(allowed) {
            let allowed = format!("1 to {GROUP_BYTES_MAX} of a-z, 0-9, '.', '_' and '-'");
            return Err(BrokerError::InvalidName { what: "group name", name: self.group.clone(), allowed });
        }
        let of_group = |what: &str| format!("group {:?}: {what}", self.group);
        if self.kinds.is_empty() {
            return Err(BrokerError::out_of_range(of_group("number of event types"), 0, "at least 1"));
        }
        if !(1..=PREFETCH_MAX).contains(&self.prefetch) {
            let allowed = format!("1 to {PREFETCH_MAX}");
            return Err(BrokerError::out_of_range(of_group("prefetch"), self.prefetch, allowed));
        }
        if self.delivery_limit == 0 {
            return Err(BrokerError::out_of_range(of_group("delivery_limit"), 0, "at least 1"));
        }
        Ok(())
    }
}

/// Carries durable events to workers and proposals to the journal.
///
/// All methods take `&self`, so a broker is shared by handle. The [crate documentation](crate) describes the
/// delivery guarantees.
pub trait Broker: Send + Sync + 'static {
    /// Joins a group. The embedded broker reads the group's record from the log at the first subscription.
    /// Over RabbitMQ the call returns at once, and messages come when the queue exists.
    ///
    /// # Errors
    /// - As [`Subscription::check`].
    /// - [`BrokerError::DifferentSettings`] if the group has other settings.
    /// - [`BrokerError::Log`] if the group's record cannot be read.
    /// - [`BrokerError::Closed`].
    fn subscribe(&self, subscription: Subscription) -> Result<Consumer, BrokerError>;

    /// Sends a proposal from a worker to the journal. Waits while the journal is behind or RabbitMQ is
    /// unavailable.
    ///
    /// After `Ok`, the decision of the journal is durable (embedded), or the proposal is durable
    /// ([`ProposalReply::Queued`], RabbitMQ). The exception is [`ProposalReply::RetryLater`]: nothing was
    /// decided.
    ///
    /// After the future is dropped, the proposal may or may not be decided. Propose again: the journal
    /// recognises events by their ids.
    ///
    /// # Errors
    /// - [`BrokerError::Closed`] if the journal has stopped.
    /// - [`BrokerError::OutOfRange`] if the proposal has no event or too many.
    /// - [`BrokerError::TooLarge`] if the proposal exceeds the size of a message.
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<ProposalReply, BrokerError>> {
        self.propose_in(proposal, MessageContext::new())
    }

    /// Sends a proposal as [`propose`](Self::propose), with its context. A broker that carries contexts of
    /// events also attaches the context to the events that follow from the proposal.
    ///
    /// # Errors
    /// As [`propose`](Self::propose).
    fn propose_in(
        &self,
        proposal: Proposal,
        context: MessageContext,
    ) -> BoxFuture<'_, Result<ProposalReply, BrokerError>>;

    /// Sets the context in which an event is delivered, in place of its proposal's context. Call it before
    /// the event is proposed. Events that are proposed together can thus begin separate traces. The call has
    /// an effect only in the journal's process, and only if the broker carries contexts of events.
    fn put_in_context(&self, event: EventId, context: &MessageContext);

    /// Returns the receiver of proposals of all hosted experiments, for the journal. The call succeeds once,
    /// because there is one journal.
    ///
    /// # Errors
    /// - [`BrokerError::ProposalsTaken`] if it was called before.
    /// - [`BrokerError::ServerOnly`] on a worker of RabbitMQ, which has no journal.
    fn proposals(&self) -> Result<ProposalConsumer, BrokerError>;

    /// Begins to receive the proposals of workers for an experiment. Idempotent. The embedded broker has
    /// nothing to do.
    ///
    /// # Errors
    /// - [`BrokerError::Closed`], or [`BrokerError::Leaving`] during a [`leave`](Self::leave).
    /// - [`BrokerError::ServerOnly`] on a worker of RabbitMQ, which has no journal.
    fn host(&self, experiment: &ExperimentId) -> Result<(), BrokerError>;

    /// Returns a consumer of the parked events of one experiment. Several consumers share them.
    ///
    /// # Errors
    /// - [`BrokerError::Closed`], or [`BrokerError::Leaving`] during a [`leave`](Self::leave).
    /// - [`BrokerError::ServerOnly`] on a worker of RabbitMQ, because the server receives them.
    fn parked(&self, experiment: &ExperimentId) -> Result<ParkedConsumer, BrokerError>;

    /// Ends the groups of an experiment in this process. Call it after their consumers are dropped.
    ///
    /// Waits a bounded time until the deliveries are settled and the settlements are durable. Then all memory
    /// of the groups is freed, even if a delivery is still held: it cannot be settled any more, and is
    /// redelivered. A later [`subscribe`](Self::subscribe) resumes each group. Dropping the future does not
    /// cancel the leave.
    ///
    /// # Errors
    /// - [`BrokerError::Log`] or [`BrokerError::Closed`].
    /// - [`BrokerError::Late`] if RabbitMQ did not receive all settlements in time. The memory is freed, and
    ///   the messages are redelivered.
    fn leave<'a>(&'a self, experiment: &'a ExperimentId) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Redelivers the event at `position` to `group` as a first attempt, whether or not its parking was
    /// acknowledged. An operator calls this after repairing the cause of the failure.
    ///
    /// # Errors
    /// - [`BrokerError::NotReplayable`] if the group has no subscription to the event type, has not reached
    ///   the event, or has an unsettled delivery of it. Over RabbitMQ, only deliveries of this process count.
    /// - [`BrokerError::Log`] or [`BrokerError::Closed`].
    fn unpark<'a>(&'a self, group: &'a str, position: u64) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Ends all consumers. Deliveries can still be settled, and proposals can still be sent.
    fn close(&self);

    /// Waits, after [`close`](Self::close), until every delivery is settled and every settlement is durable.
    ///
    /// # Errors
    /// - [`BrokerError::Log`] or [`BrokerError::Closed`] if a settlement could not be made durable.
    /// - [`BrokerError::Unavailable`] if RabbitMQ did not confirm in time.
    /// - [`BrokerError::Closed`] after [`abandon`](Self::abandon), if something was given up.
    fn drained(&self) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// Ends all waits for RabbitMQ, as the last step of an orderly stop. Publications that still wait fail
    /// with [`BrokerError::Closed`], and their causes are redelivered. [`drained`](Self::drained) returns,
    /// even while deliveries are held. The embedded broker has nothing to do.
    fn abandon(&self);
}
