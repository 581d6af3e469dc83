//! The contract that actors are written against, whichever broker carries the messages.

use std::time::Duration;

use dissent_domain::event::{EventId, EventType};
use dissent_domain::id::ExperimentId;

use crate::delivery::{Consumer, MessageContext, ParkedConsumer};
use crate::error::BrokerError;
use crate::future::BoxFuture;
use crate::proposal::{Proposal, ProposalConsumer, ProposalReply};

/// Longest name of a group, in bytes.
pub const GROUP_BYTES_MAX: usize = 64;
/// Most deliveries a consumer may hold unsettled.
pub const PREFETCH_MAX: usize = 128;

/// What a consumer asks for. All consumers of one group share its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The queue's name, for example `generation`: 1 to [`GROUP_BYTES_MAX`] of `[a-z0-9._-]`. Progress is
    /// remembered under it.
    pub group: String,
    /// Only this experiment's events; none: every experiment's.
    pub experiment: Option<ExperimentId>,
    /// The kinds of event it receives; at least one.
    pub kinds: &'static [EventType],
    /// How many deliveries this consumer may hold unsettled, 1 to [`PREFETCH_MAX`]. With 1 and a single
    /// consumer, messages come in the order of the log, apart from those that are retried.
    pub prefetch: usize,
    /// Failed attempts after which a message is parked, at least 1.
    pub delivery_limit: u32,
    /// Wait before the second attempt; it doubles with each further one, up to the broker's cap.
    pub retry_delay: Duration,
}

impl Subscription {
    /// Checks the limits named at each field.
    ///
    /// # Errors
    /// [`BrokerError::Invalid`], naming the field and what is allowed.
    pub fn check(&self) -> Result<(), BrokerError> {
        let invalid = |what: String| Err(BrokerError::Invalid(what));
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        if self.group.is_empty() || self.group.len() > GROUP_BYTES_MAX || !self.group.chars().all(allowed) {
            return invalid(format!(
                "{:?} cannot be a group: use 1 to {GROUP_BYTES_MAX} of a-z, 0-9, '.', '_' and '-'",
                self.group
            ));
        }
        if self.kinds.is_empty() {
            return invalid(format!(
                "group {:?} subscribes to no kind of event: name at least one",
                self.group
            ));
        }
        if !(1..=PREFETCH_MAX).contains(&self.prefetch) {
            return invalid(format!(
                "prefetch {} of group {:?} is out of range: use 1 to {PREFETCH_MAX}",
                self.prefetch, self.group
            ));
        }
        if self.delivery_limit == 0 {
            return invalid(format!("delivery_limit of group {:?} is 0: use at least 1", self.group));
        }
        Ok(())
    }
}

/// Carries durable events to workers and proposals to the journal. Shared by handle: all methods take
/// `&self`. The delivery guarantees are in the [crate's description](crate).
pub trait Broker: Send + Sync + 'static {
    /// Joins a group. The embedded broker reads one small record of the log here, the first time; over RabbitMQ it returns
    /// at once, and messages come when the queue is there.
    ///
    /// # Errors
    /// [`BrokerError::Invalid`] if the subscription is out of range or contradicts one already made for
    /// the group; [`BrokerError::Log`] if the group's record cannot be read; [`BrokerError::Closed`].
    fn subscribe(&self, subscription: Subscription) -> Result<Consumer, BrokerError>;

    /// Worker → journal. Waits while the journal is behind, or RabbitMQ is away. Ok means that the journal has decided it and
    /// the decision is durable (embedded), or that the proposal itself is ([`ProposalReply::Queued`], RabbitMQ).
    ///
    /// Dropping the future leaves open whether the proposal is decided: propose again, events are
    /// recognised by their ids.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the journal is gone, [`BrokerError::Invalid`] if there is no event in it,
    /// too many, or more bytes than a message may have.
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<ProposalReply, BrokerError>> {
        self.propose_in(proposal, MessageContext::new())
    }

    /// [`propose`](Self::propose) in a context that travels with the proposal and, as far as the broker can, with the
    /// events that come of it.
    ///
    /// # Errors
    /// As [`propose`](Self::propose).
    fn propose_in(
        &self,
        proposal: Proposal,
        context: MessageContext,
    ) -> BoxFuture<'_, Result<ProposalReply, BrokerError>>;

    /// This event, which is about to be proposed, is delivered in this context and not in that of its proposal, as far as the
    /// broker can: for events that are proposed together and yet begin traces of their own. Only where the journal is.
    fn put_in_context(&self, event: EventId, context: &MessageContext);

    /// The journal's side: takes proposals. There is one journal, so this succeeds once.
    ///
    /// # Errors
    /// [`BrokerError::Invalid`] if it was taken before, or on a worker of RabbitMQ, which has no journal.
    fn proposals(&self) -> Result<ProposalConsumer, BrokerError>;

    /// Messages of every group that used up their attempts. Several consumers share them.
    ///
    /// # Errors
    /// [`BrokerError::Closed`]; [`BrokerError::Invalid`] on a worker of RabbitMQ: its server takes them.
    fn parked(&self) -> Result<ParkedConsumer, BrokerError>;

    /// Delivers the event at `position` to `group` once more, with all its attempts before it, whether or
    /// not its parking was acknowledged. For a person who has repaired what made it fail.
    ///
    /// # Errors
    /// [`BrokerError::Invalid`] if nobody subscribed to the group, the event is not of its kinds, not yet
    /// reached, or still being delivered (over RabbitMQ: in this process); [`BrokerError::Log`];
    /// [`BrokerError::Closed`].
    fn unpark<'a>(&'a self, group: &'a str, position: u64) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Stops intake: consumers end, deliveries in hand can still be settled and proposals still made.
    fn close(&self);

    /// After [`close`](Self::close): waits until nothing is in hand any more and that is durable.
    ///
    /// # Errors
    /// [`BrokerError::Log`] or [`BrokerError::Closed`] if it could not be made durable,
    /// [`BrokerError::Unavailable`] if RabbitMQ did not confirm it in time.
    fn drained(&self) -> BoxFuture<'_, Result<(), BrokerError>>;
}
