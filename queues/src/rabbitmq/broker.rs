//! [`RabbitBroker`]: its connections, its parts, and the [`Broker`] contract.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use dissent_domain::error::Cause;
use dissent_domain::event::EventId;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::event_queue::EventQueue;
use super::events::{self, EventDecoder, GroupConsumer, GroupSource};
use super::history::HistoryConsumer;
use super::hosted::Experiments;
use super::link_error::LinkError;
use super::queue_consumer::QueueConsumer;
use super::relay::Command;
use super::shared::Shared;
use super::threads::Threads;
use super::{proposals, refusal};
use crate::broker::{Broker, Subscription};
use crate::context::Contexts;
use crate::delivery::{Consumer, MessageContext, ParkedConsumer};
use crate::error::BrokerError;
use crate::future::BoxFuture;
use crate::lock::lock;
use crate::proposal::{Proposal, ProposalConsumer, ProposalReply, ProposalSender};
use crate::random::random;

/// The code of a missing permission.
const ACCESS_REFUSED: u16 = 403;

/// The broker over RabbitMQ. It owns the threads that serve its connections. When it is dropped, the threads
/// end, and unsettled messages are redelivered, here or elsewhere.
///
/// # Server, workers and operators
///
/// The *server* ([`connect_server`](Self::connect_server)) has the log. It relays the log's events to
/// RabbitMQ, declares the queues, and receives proposals and parked messages. *Workers*
/// ([`connect_worker`](Self::connect_worker)) have no log: they subscribe and propose. Both reconnect by
/// themselves while they are open.
///
/// # Queues
///
/// Names begin with [`prefix`](super::RabbitOptions::prefix). Every queue is durable, and every publication
/// is confirmed.
///
/// | name | kind | holds |
/// |---|---|---|
/// | `dissent.2.events` | topic exchange | routes events by `<experiment>.<type>` |
/// | `dissent.2.<group>` | quorum queue | unprocessed events of a group |
/// | `dissent.2.history.<experiment>` | stream | all events of an experiment, for workers |
/// | `dissent.2.proposals.<experiment>` | quorum queue | undecided proposals of workers |
/// | `dissent.2.parked.<experiment>` | quorum queue | parked events, until their parking is acknowledged |
/// | `dissent.2.retry.<ms>` | exchange and quorum queue | failed messages that wait for their next attempt |
/// | `dissent.2.dead` | quorum queue | unreadable messages and rejected proposals; at most 100 000 |
/// | `dissent.2.holder` | quorum queue | one message: the server that serves the prefix |
/// | `dissent.2.lock.<connection>` | exclusive queue | nothing: its owner is the server |
/// | `dissent.2.repair` | exclusive queue | nothing: its owner may replace an unresponsive queue |
///
/// `2` is the [protocol](super::PROTOCOL): version 0.1 used the same names without it, so that processes of
/// both versions share no queue. `<experiment>` is the experiment's id in hexadecimal, because its name may
/// contain dots. Actors use the groups `<step>.<experiment>`: with one queue for each step *and* experiment,
/// pausing or cancelling one experiment does not delay another. A message is parked when it used up its
/// attempts, or when RabbitMQ delivered it [`redeliveries_max`](super::RabbitOptions::redeliveries_max) times
/// without a settlement. In a group of all experiments, such a message becomes a dead letter instead.
///
/// Only the server declares the exchange and the queues of groups and histories, because only the server can
/// fill and bind them. It looks for them at each check, and soon after a message found no queue. A queue is
/// missing for a new group, on a replaced RabbitMQ, or after a deletion. It is then filled with all events of
/// its types that the relay has passed, and the relay continues. Each event is thus delivered at least once,
/// and again if RabbitMQ lost its acknowledgement. A worker that subscribes earlier waits until the queue
/// exists. Each of the other queues is declared by the process that misses it; what was in a deleted queue
/// is lost.
///
/// # One server
///
/// One server at a time serves a prefix. Each of its two connections owns an exclusive queue as a lock, and
/// takes it before any other use. RabbitMQ frees the lock when it drops the connection, and from then on it
/// accepts nothing from that connection. So a server that was paused or cut off can publish nothing after
/// another took over. It waits until it has the locks again;
/// [`taken_over_by`](super::BrokerStatus::taken_over_by) names the other server.
///
/// A server that takes over after another one, or over an older copy of its log, declares and fills all
/// queues anew: they may hold events that its log lacks.
///
/// Each message has the number of the server's start in its header `start`. No process drops a message by
/// it. After a partition of a RabbitMQ cluster, messages of an earlier server may still arrive, and they are
/// harmless. An event of the same log is a duplicate, and is recognised by its id. The journal decides every
/// proposal by the ids of its events. Dropping by the number would lose messages: those that an earlier start
/// of the same server published are valid until they are processed.
///
/// # Differences from the embedded broker
///
/// - The reply to a worker's proposal is [`ProposalReply::Queued`]: the proposal is durable and will be
///   decided. Rejected proposals end in `dissent.2.dead`.
/// - An event is with at most one consumer within a process. When a connection is lost, RabbitMQ may deliver
///   a message to another process while it is unsettled here.
/// - Settling a message whose connection was lost succeeds. An acknowledged message is acknowledged again
///   when it is redelivered to this process. Another process receives it again.
/// - Acknowledgements are sent together, within 5 ms. A crash before that causes redelivery.
/// - A message that is released, or whose worker dies, more than
///   [`redeliveries_max`](super::RabbitOptions::redeliveries_max) times is parked. RabbitMQ cannot
///   distinguish the two cases, and such a message may kill its workers.
/// - RabbitMQ redelivers a message that is not settled within 30 minutes (its `consumer_timeout`). Longer
///   work uses leases.
pub struct RabbitBroker {
    pub(super) shared: Arc<Shared>,
    pub(super) groups: Mutex<BTreeMap<String, Group>>,
    /// Experiments whose history this process publishes or reads.
    pub(super) histories: Mutex<BTreeSet<ExperimentId>>,
    pub(super) experiments: Mutex<Experiments>,
    pub(super) server: Option<Server>,
    _threads: Threads,
}

/// A group of this process.
pub(super) struct Group {
    pub(super) subscription: Subscription,
    /// `None` while the group is only declared, for workers.
    pub(super) consumer: Option<GroupConsumer>,
}

/// The parts that only the server has.
pub(super) struct Server {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) proposals: ProposalSender,
    pub(super) proposal_consumer: Mutex<Option<ProposalConsumer>>,
    pub(super) contexts: Arc<Contexts>,
}

impl RabbitBroker {
    pub(super) fn of(shared: Arc<Shared>, threads: Threads, server: Option<Server>) -> Self {
        Self {
            shared,
            groups: Mutex::default(),
            histories: Mutex::default(),
            experiments: Mutex::default(),
            server,
            _threads: threads,
        }
    }

    /// Declares the queues of groups that other processes consume, and fills them.
    /// [`subscribe`](Broker::subscribe) declares the server's own groups.
    ///
    /// # Errors
    /// - As [`Broker::subscribe`] if a subscription is invalid.
    /// - [`BrokerError::ServerOnly`] on a worker.
    /// - [`BrokerError::Unavailable`] after [`operation_timeout`](super::RabbitOptions::operation_timeout).
    ///   The queues are then declared as soon as RabbitMQ is available.
    pub async fn declare_groups(&self, subscriptions: &[Subscription]) -> Result<(), BrokerError> {
        self.shared.check_running()?;
        let server = self.server()?;
        let mut event_queues = Vec::new();
        for subscription in subscriptions {
            event_queues.push(self.event_queue(subscription)?);
            self.note_group(subscription)?;
        }
        self.execute(server, |done| Command::Declare { event_queues: event_queues.clone(), done: Some(done) })
            .await
    }

    /// Declares the stream of an experiment's history, and fills it.
    ///
    /// # Errors
    /// As [`declare_groups`](Self::declare_groups).
    pub async fn publish_history(&self, experiment: &ExperimentId) -> Result<(), BrokerError> {
        self.shared.check_running()?;
        let event_queue =
            EventQueue::of_history(&self.shared.topology, &self.shared.options.prefix, experiment);
        lock(&self.histories).insert(experiment.clone());
        self.execute(self.server()?, |done| Command::Declare {
            event_queues: vec![event_queue.clone()],
            done: Some(done),
        })
        .await
    }

    /// Reads the history of an experiment from its first event, in any process. Waits until the server
    /// publishes the history.
    ///
    /// # Errors
    /// [`BrokerError::Closed`].
    pub async fn history(&self, experiment: &ExperimentId) -> Result<HistoryConsumer, BrokerError> {
        self.shared.check_running()?;
        lock(&self.histories).insert(experiment.clone());
        Ok(HistoryConsumer::start(&self.shared, experiment))
    }

    pub(super) async fn execute(
        &self,
        server: &Server,
        command: impl Fn(oneshot::Sender<Result<(), BrokerError>>) -> Command,
    ) -> Result<(), BrokerError> {
        let executed = async {
            loop {
                let (done, outcome) = oneshot::channel();
                server.commands.send(command(done)).map_err(|_| BrokerError::Closed)?;
                match outcome.await {
                    Ok(outcome) => return outcome,
                    // The connection was lost before the command was executed: send it again.
                    Err(_) => self.shared.check_running()?,
                }
            }
        };
        let limit = self.shared.options.operation_timeout;
        tokio::select! {
            outcome = timeout(limit, executed) => match outcome {
                Ok(outcome) => outcome,
                Err(_) => Err(match self.shared.refusal() {
                    Some(reason) => {
                        refusal::refused(&self.shared.options, "declare the queues", reason, Some(ACCESS_REFUSED))
                    }
                    None => self.shared.late("declare the queues", limit),
                }),
            },
            () = self.shared.signals.abandoned() => Err(BrokerError::Closed),
        }
    }

    pub(super) fn server(&self) -> Result<&Server, BrokerError> {
        self.server.as_ref().ok_or(BrokerError::ServerOnly)
    }

    fn event_queue(&self, subscription: &Subscription) -> Result<EventQueue, BrokerError> {
        subscription.check()?;
        EventQueue::of_group(&self.shared.topology, &self.shared.options.prefix, subscription)
    }

    /// Notes the settings that the consumers of a group share.
    fn note_group(&self, subscription: &Subscription) -> Result<(), BrokerError> {
        let mut groups = lock(&self.groups);
        match groups.get(&subscription.group) {
            Some(group) => check_same_settings(&group.subscription, subscription),
            None => {
                let group = Group { subscription: subscription.clone(), consumer: None };
                groups.insert(subscription.group.clone(), group);
                Ok(())
            }
        }
    }

    /// Returns the queue consumer of a group, which all its members in this process share.
    fn consumer(&self, subscription: &Subscription, queue: String) -> Result<GroupConsumer, BrokerError> {
        self.note_group(subscription)?;
        let mut groups = lock(&self.groups);
        let group = groups.get_mut(&subscription.group).ok_or(BrokerError::Closed)?;
        let decoder = || EventDecoder::of(subscription, self.shared.options.message_bytes_max);
        Ok(Arc::clone(
            group.consumer.get_or_insert_with(|| QueueConsumer::start(&self.shared, queue, decoder())),
        ))
    }

    async fn replay(&self, group: &str, position: u64) -> Result<(), BrokerError> {
        self.shared.check_running()?;
        let server = self.server()?;
        let invalid = |reason: &str| {
            let (group, reason) = (group.to_owned(), reason.to_owned());
            Err(BrokerError::NotReplayable { group, position, reason })
        };
        let (event_queue, consumer) = {
            let groups = lock(&self.groups);
            let Some(group) = groups.get(group) else { return invalid("the group has no subscription") };
            (self.event_queue(&group.subscription)?, group.consumer.clone())
        };
        let relayed = self.status().relayed_to;
        if position == 0 || position > relayed {
            return invalid(&format!("the relay has only reached event {relayed}; try again later"));
        }
        let log = Arc::clone(&server.log);
        let read = self.shared.runtime.spawn_blocking(move || log.read(position - 1, 1));
        let page = read.await.map_err(|_| BrokerError::Closed)??;
        let Some(event) = page.into_iter().find(|event| event.position == position) else {
            return invalid("the log has no such event");
        };
        if !event_queue.wants(&event) {
            return invalid("the group has no subscription to this event type");
        }
        if consumer.is_some_and(|consumer| consumer.holds(|held| held.event.position == position)) {
            return invalid("a delivery is unsettled; try again later");
        }
        // The message gets a new id: the old one may already be done, and its duplicates are dropped.
        let id = format!("{}/replay/{:016x}", event.event.id, random());
        let message = events::group_message(&event_queue.queue, id, &event, 1, &MessageContext::new())?;
        self.shared.publisher.publish(message).await
    }
}

/// Returns the error when RabbitMQ fails an operation.
pub(super) fn unavailable(shared: &Shared, action: &'static str, error: LinkError) -> BrokerError {
    let refused = refusal::error(&shared.options, action, &error);
    match (error, refused) {
        (LinkError::Broker(error), _) | (_, Some(error)) => error,
        (error, None) => {
            BrokerError::Unavailable { action, address: shared.options.address(), source: Cause::new(error) }
        }
    }
}

fn check_same_settings(known: &Subscription, other: &Subscription) -> Result<(), BrokerError> {
    if (Subscription { prefetch: known.prefetch, ..other.clone() }) == *known {
        return Ok(());
    }
    Err(BrokerError::DifferentSettings { group: known.group.clone() })
}

impl Broker for RabbitBroker {
    fn subscribe(&self, subscription: Subscription) -> Result<Consumer, BrokerError> {
        self.shared.check_running()?;
        if let Some(experiment) = &subscription.experiment {
            lock(&self.experiments).check_staying(experiment)?;
        }
        let event_queue = self.event_queue(&subscription)?;
        let consumer = self.consumer(&subscription, event_queue.queue.clone())?;
        if let Some(server) = &self.server {
            let command = Command::Declare { event_queues: vec![event_queue], done: None };
            server.commands.send(command).map_err(|_| BrokerError::Closed)?;
        }
        let prefetch = u16::try_from(subscription.prefetch).unwrap_or(u16::MAX);
        let member = consumer.join(prefetch);
        // A concurrent close has not seen this member.
        self.shared.check_running()?;
        Ok(Consumer { source: Box::new(GroupSource::new(member)) })
    }

    fn propose_in(
        &self,
        proposal: Proposal,
        context: MessageContext,
    ) -> BoxFuture<'_, Result<ProposalReply, BrokerError>> {
        Box::pin(async move {
            match &self.server {
                Some(server) => {
                    server.contexts.note(proposal.events.iter().map(|event| event.id), &context);
                    server.proposals.propose(proposal, context).await
                }
                None => {
                    proposal.check()?;
                    proposals::send(&self.shared, &proposal, &context).await?;
                    Ok(ProposalReply::Queued)
                }
            }
        })
    }

    fn put_in_context(&self, event: EventId, context: &MessageContext) {
        if let Some(server) = &self.server {
            server.contexts.note(std::iter::once(event), context);
        }
    }

    fn proposals(&self) -> Result<ProposalConsumer, BrokerError> {
        let server = self.server()?;
        let consumer = lock(&server.proposal_consumer).take().ok_or(BrokerError::ProposalsTaken)?;
        self.receive_proposals()?;
        Ok(consumer)
    }

    fn host(&self, experiment: &ExperimentId) -> Result<(), BrokerError> {
        self.host_experiment(experiment)
    }

    fn parked(&self, experiment: &ExperimentId) -> Result<ParkedConsumer, BrokerError> {
        self.consume_parked(experiment)
    }

    fn leave<'a>(&'a self, experiment: &'a ExperimentId) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(self.leave_experiment(experiment))
    }

    fn abandon(&self) {
        self.shared.signals.abandon();
    }

    fn unpark<'a>(&'a self, group: &'a str, position: u64) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(self.replay(group, position))
    }

    fn close(&self) {
        self.shared.close();
    }

    fn drained(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            let drained = self.shared.drained().await;
            if let Some(server) = &self.server {
                let log = Arc::clone(&server.log);
                let flushed = self.shared.runtime.spawn_blocking(move || log.flush());
                flushed.await.map_err(|_| BrokerError::Closed)??;
            }
            drained
        })
    }
}

impl Drop for RabbitBroker {
    fn drop(&mut self) {
        self.shared.stop();
        // A delivery that outlives the broker must not keep the connections, and with them the locks.
        self.shared.publishing.drop_connection();
        self.shared.consuming.drop_connection();
    }
}

impl fmt::Debug for RabbitBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitBroker").field("status", &self.status()).finish_non_exhaustive()
    }
}
