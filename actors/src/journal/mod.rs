//! The journal: the one writer of history. It decides each proposal against the state of its experiment,
//! appends the accepted events, and replies once they are durable.
//!
//! The journal decides proposals one after another, on a state that already includes accepted events on their
//! way to the disk. So one group commit makes many proposals durable. After a failed write the journal
//! accepts nothing more.
//!
//! The thread of the journal never opens an artifact, because a store may take minutes to answer. If the
//! rules accept a proposal that names artifacts, another thread checks them, and the journal then decides
//! again. Later proposals of the same experiment wait in order. Proposals of other experiments and operator
//! commands do not wait.

pub(crate) mod artifact_check;
mod checks;
pub(crate) mod operator;
pub(crate) mod snapshots;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use actix::dev::SendError;
use actix::{
    Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, Message, MessageResult,
    ResponseFuture, WrapFuture as _,
};
use dissent_domain::event::{Event, EventId, FeedbackReceived, NewEvent, StepName};
use dissent_domain::event_ids::feedback_requested_id;
use dissent_domain::experiment::Experiment;
use dissent_domain::id::ExperimentId;
use dissent_domain::journal::{Accepted, Decision, DecisionInTurn};
use dissent_domain::log::{Append, EventLog, LogError};
use dissent_domain::operator::OperatorCommand;
use dissent_queues::{Broker, BrokerError, Proposal, ProposalDelivery, ProposalReply};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tracing::{Instrument as _, Span};

use crate::error::{CommandError, RunFailure, chain};
use crate::runner::failure::Failure;
use crate::runner::redelivery::Rejections;
use crate::runner::trace;
use crate::state::clock::now_us;
use crate::state::progress::Progress;
use crate::state::{CommandOutcome, Judged, JudgedLine, States, is_heartbeat};
use artifact_check::{ArtifactCheck, Contradiction, named_artifacts};
pub(crate) use checks::CheckLimit;
use checks::Checks;

/// Proposals decided but not yet durable. More would only lengthen the wait: a group commit takes 256 events.
const IN_FLIGHT_MAX: usize = 256;
/// Capacity of the channel of rejected causes. On overflow a cause is dropped; the periodic scan finds it.
const REJECTIONS_MAX: usize = 64;
/// Maximum number of proposals of an experiment that wait for its artifact check. The reply to further ones
/// is [`ProposalReply::RetryLater`]. So a stalled store fills neither the memory nor the broker's window of
/// undecided proposals, which all experiments share.
const HELD_MAX: usize = 16;

/// The part of the journal that belongs to one experiment whose steps run in this process.
struct Hosted {
    progress: Arc<watch::Sender<Progress>>,
    /// Causes of rejected proposals, to be redelivered at once.
    rejected: mpsc::Sender<EventId>,
    /// Checks the artifacts that trainings name; `None` if the plan does not learn.
    check: Option<Arc<ArtifactCheck>>,
    /// Whether a check runs.
    is_checking: bool,
    /// Proposals that arrived while a check ran, in order; at most [`HELD_MAX`].
    held: VecDeque<Pending>,
}

/// Decides and appends.
pub(crate) struct Journal {
    log: Arc<dyn EventLog>,
    /// The experiments whose steps run in this process.
    states: States,
    hosted: HashMap<ExperimentId, Hosted>,
    /// The other experiments of the log that received an operator command.
    idle: States,
    failure: Failure,
    appends: Histogram,
    checks: Checks,
}

impl Journal {
    /// A journal without experiments.
    pub(crate) fn new(log: Arc<dyn EventLog>, states: States, failure: Failure) -> Self {
        Self {
            log,
            states,
            hosted: HashMap::new(),
            idle: States::default(),
            failure,
            appends: append_seconds(),
            checks: Checks::new(),
        }
    }

    /// Adds an experiment whose state is loaded.
    pub(crate) fn adopt(&mut self, Adopt { experiment, progress, check }: Adopt) -> Rejections {
        let (rejected, rejections) = mpsc::channel(REJECTIONS_MAX);
        let (progress, check) = (Arc::new(progress), check.map(Arc::new));
        // Its state as the target of operator commands is older now.
        self.idle.remove(&experiment);
        let hosted = Hosted { progress, rejected, check, is_checking: false, held: VecDeque::new() };
        self.hosted.insert(experiment, hosted);
        rejections
    }

    /// Seconds from a decision to its durability.
    pub(crate) fn appends(&self) -> Histogram {
        self.appends.clone()
    }

    /// Bounds the wait of a shutdown for artifact checks.
    pub(crate) fn check_limit(&self) -> CheckLimit {
        self.checks.limit()
    }

    /// Loads experiments whose steps do not run here, for operator commands.
    pub(crate) fn idle_experiments(&self) -> IdleExperiments {
        let (log, hosted, idle) = (self.log.clone(), self.states.clone(), self.idle.clone());
        IdleExperiments { log, hosted, idle }
    }

    /// Decides a proposal. On acceptance the state is evolved, and the caller must append at once.
    fn decide(&self, proposal: &Proposal) -> Result<Decided, LogError> {
        let mut states = self.states.lock();
        let Some(state) = states.get_mut(&proposal.experiment) else { return Ok(Decided::NotHosted) };
        let is_known = |id| self.log.find(id).map(|known| known.is_some());
        match state.ledger.decide(&proposal.experiment, &proposal.events, now_us(), is_known)? {
            Decision::Rejected(reason) => Ok(Decided::Rejected(reason.to_string())),
            Decision::Accepted(Accepted { append, fresh }) => {
                // A repeated event is no heartbeat.
                if fresh.iter().any(|event| is_heartbeat(event.event_type())) {
                    state.last_heartbeat = Some(Instant::now());
                }
                Ok(Decided::Accepted(append, state.progress()))
            }
        }
    }

    /// The events of a proposal whose artifacts must be checked first. Recorded events were checked before,
    /// and events that the rules reject need no check.
    fn unchecked(&self, proposal: &Proposal) -> Vec<Event> {
        let may_happen = |id: EventId, event: &Event| {
            let allowed = |experiment: &Experiment| experiment.decide(event).is_ok();
            self.states.read(&proposal.experiment, allowed).unwrap_or(false)
                && matches!(self.log.find(id), Ok(None))
        };
        named_artifacts(&proposal.events, may_happen)
    }

    /// Decides a proposal, or begins the check of its artifacts. Returns whether a check began.
    fn begin(&mut self, pending: Pending, context: &mut Context<Self>) -> bool {
        let proposal = &pending.delivery.proposal;
        let check = self.hosted.get(&proposal.experiment).and_then(|hosted| hosted.check.clone());
        let Some(check) = check else {
            self.settle(pending, None);
            return false;
        };
        let unchecked = self.unchecked(proposal);
        if unchecked.is_empty() {
            self.settle(pending, None);
            return false;
        }
        let experiment = proposal.experiment.clone();
        self.set_checking(&experiment, true);
        let checking = self.checks.run(experiment, check, unchecked).instrument(pending.span.clone());
        // A stalled store must not take the permits of other experiments.
        let pending = Pending { permit: None, ..pending };
        let after = |contradiction, journal: &mut Self, context: &mut Context<Self>| {
            journal.end_check(pending, contradiction, context);
        };
        context.spawn(checking.into_actor(self).map(after));
        true
    }

    fn set_checking(&mut self, experiment: &ExperimentId, is_checking: bool) {
        self.states.set_checking(experiment, is_checking);
        if let Some(hosted) = self.hosted.get_mut(experiment) {
            hosted.is_checking = is_checking;
        }
    }

    /// Settles a proposal whose artifacts were checked, and continues with those that waited for it.
    fn end_check(
        &mut self,
        pending: Pending,
        contradiction: Option<Contradiction>,
        context: &mut Context<Self>,
    ) {
        let experiment = pending.delivery.proposal.experiment.clone();
        self.settle(pending, contradiction);
        self.set_checking(&experiment, false);
        while let Some(next) = self.hosted.get_mut(&experiment).and_then(|hosted| hosted.held.pop_front()) {
            if self.begin(next, context) {
                return;
            }
        }
    }

    /// Decides a proposal and replies once the decision is durable. A contradiction rejects it.
    fn settle(&self, Pending { delivery, permit, span }: Pending, contradiction: Option<Contradiction>) {
        let experiment = &delivery.proposal.experiment;
        let decision = match contradiction {
            Some(contradiction) => Ok(Decided::Rejected(chain(&contradiction))),
            None => span.in_scope(|| self.decide(&delivery.proposal)),
        };
        let hosted = self.hosted.get(experiment);
        let appended = match decision {
            Ok(Decided::Accepted(append, progress)) => Ok((self.log.append(append), progress)),
            // Its proposer proposes again, and a broker between processes delivers it again to the host.
            Ok(Decided::NotHosted) => {
                let _in_span = span.enter();
                tracing::debug!(experiment_id = %experiment, "releasing a proposal for an experiment that is not hosted");
                return;
            }
            Ok(Decided::Rejected(reason)) => {
                if let (Some(cause), Some(hosted)) = (delivery.proposal.cause, hosted) {
                    hosted.rejected.try_send(cause).ok();
                }
                Err(ProposalReply::Rejected { reason })
            }
            Err(error) => return self.failure.report(error),
        };
        let progress = hosted.map(|hosted| hosted.progress.clone());
        let (failure, appends, begun) = (self.failure.clone(), self.appends.clone(), Instant::now());
        let replying = async move {
            let decided = match appended {
                Err(rejected) => rejected,
                Ok((append, now)) => match append.await {
                    Ok(recorded) => {
                        appends.observe(begun.elapsed().as_secs_f64());
                        progress.iter().for_each(|progress| publish(progress, now.clone()));
                        ProposalReply::Recorded(recorded)
                    }
                    // Without a reply, the proposer does not acknowledge the cause.
                    Err(error) => return failure.report(error),
                },
            };
            reply(delivery, decided, permit).await;
        };
        actix::spawn(replying.instrument(span));
    }

    /// Decides judgements. With them comes the progress to publish, if the steps of the experiment run here.
    fn judge(
        &self,
        experiment: &ExperimentId,
        judgements: Vec<FeedbackReceived>,
    ) -> Result<(Append, Judged, Progress), CommandError> {
        let states = if self.states.version(experiment) > 0 { &self.states } else { &self.idle };
        let mut states = states.lock();
        let unknown = || CommandError::Unknown(experiment.clone());
        let state = states.get_mut(experiment).ok_or_else(unknown)?;
        let plan = state.ledger.experiment().plan().ok_or_else(unknown)?;
        let now = now_us();
        let event = |judgement: FeedbackReceived| {
            let requested = feedback_requested_id(plan, judgement.round, judgement.comparison);
            let id = requested.judged_by(&judgement.annotator);
            NewEvent::new(id, Some(requested), StepName::Feedback.name(), now, &judgement.into())
        };
        let events: Vec<NewEvent> = judgements.into_iter().map(event).collect::<Result<_, _>>()?;
        let is_known = |id| self.log.find(id).map(|known| known.is_some());
        match state.ledger.decide_in_turn(experiment, &events, now, is_known)? {
            DecisionInTurn::Rejected { place, reason } => {
                let (experiment, reason) = (experiment.clone(), reason.to_string());
                Err(CommandError::JudgementsRejected { experiment, line: place + 1, reason })
            }
            DecisionInTurn::Accepted { accepted: Accepted { append, .. }, is_fresh } => {
                let line = |(event, is_new): (&NewEvent, bool)| JudgedLine { event: event.id, is_new };
                let lines = events.iter().zip(is_fresh).map(line).collect();
                Ok((append, Judged { lines }, state.progress()))
            }
        }
    }

    /// Decides an operator command. With it comes the progress to publish, if the steps of the experiment run
    /// here.
    fn command(
        &self,
        experiment: &ExperimentId,
        command: &OperatorCommand,
    ) -> Result<DecidedCommand, CommandError> {
        if self.states.version(experiment) > 0 {
            let (append, outcome) = self.states.command(experiment, command)?;
            return Ok((append, outcome, Some(self.states.progress(experiment))));
        }
        let (append, outcome) = self.idle.command(experiment, command)?;
        Ok((append, outcome, None))
    }
}

/// Seconds from a tenth of a millisecond to a few seconds.
fn append_seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 16))
}

/// The decision on a proposal.
enum Decided {
    /// The append to make, and the progress once it is durable.
    Accepted(Append, Progress),
    /// The reason of a rejection.
    Rejected(String),
    /// The steps of the experiment do not run here.
    NotHosted,
}

/// An append to make, the outcome, and the progress once it is durable.
type DecidedCommand = (Option<Append>, CommandOutcome, Option<Progress>);

impl Actor for Journal {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The intake holds a permit for each proposal in the mailbox, and operator commands come one at a
        // time: it is never full.
        ctx.set_mailbox_capacity(IN_FLIGHT_MAX + 1);
    }
}

/// A proposal to decide.
struct Pending {
    delivery: ProposalDelivery,
    /// Bounds the proposals in flight; `None` for a proposal that waits for a check, because others must not
    /// wait for it.
    permit: Option<OwnedSemaphorePermit>,
    span: Span,
}

/// A proposal to decide, with the permit that bounds how many are in flight.
#[derive(Message)]
#[rtype(result = "()")]
struct Decide(ProposalDelivery, OwnedSemaphorePermit);

impl Handler<Decide> for Journal {
    type Result = ();

    fn handle(&mut self, Decide(delivery, permit): Decide, context: &mut Self::Context) {
        let Proposal { experiment, events, .. } = &delivery.proposal;
        let span = trace::of_proposal(experiment, events, &delivery.context);
        let hosted = self.hosted.get_mut(experiment).filter(|hosted| hosted.is_checking);
        let Some(hosted) = hosted else {
            self.begin(Pending { delivery, permit: Some(permit), span }, context);
            return;
        };
        if hosted.held.len() < HELD_MAX {
            hosted.held.push_back(Pending { delivery, permit: None, span });
        } else {
            actix::spawn(reply(delivery, ProposalReply::RetryLater, Some(permit)).instrument(span));
        }
    }
}

/// Replies to a proposal, then releases its permit.
async fn reply(delivery: ProposalDelivery, reply: ProposalReply, permit: Option<OwnedSemaphorePermit>) {
    if let Err(error) = delivery.answer(reply).await {
        tracing::warn!(error = %chain(&error), "failed to reply to a proposal");
    }
    drop(permit);
}

/// Publishes a progress, unless a later one was published: appends that become durable together are reported
/// in any order.
fn publish(progress: &watch::Sender<Progress>, now: Progress) {
    progress.send_if_modified(|known| {
        let is_newer = now.events >= known.events;
        if is_newer {
            *known = now;
        }
        is_newer
    });
}

/// An operator command.
#[derive(Message)]
#[rtype(result = "Result<CommandOutcome, CommandError>")]
struct Command {
    experiment: ExperimentId,
    command: OperatorCommand,
}

impl Handler<Command> for Journal {
    type Result = ResponseFuture<Result<CommandOutcome, CommandError>>;

    fn handle(&mut self, Command { experiment, command }: Command, _: &mut Self::Context) -> Self::Result {
        let (append, outcome, now) = match self.command(&experiment, &command) {
            Ok((Some(append), outcome, now)) => (self.log.append(append), outcome, now),
            Ok((None, outcome, _)) => return Box::pin(std::future::ready(Ok(outcome))),
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let progress = self.hosted.get(&experiment).map(|hosted| hosted.progress.clone());
        let failure = self.failure.clone();
        Box::pin(async move {
            if let Err(error) = append.await {
                failure.report(error.clone());
                return Err(error.into());
            }
            if let (Some(progress), Some(now)) = (progress, now) {
                publish(&progress, now);
            }
            Ok(outcome)
        })
    }
}

/// Judgements of people to record, all or none.
#[derive(Message)]
#[rtype(result = "Result<Judged, CommandError>")]
struct Judge {
    experiment: ExperimentId,
    judgements: Vec<FeedbackReceived>,
}

impl Handler<Judge> for Journal {
    type Result = ResponseFuture<Result<Judged, CommandError>>;

    fn handle(&mut self, Judge { experiment, judgements }: Judge, _: &mut Self::Context) -> Self::Result {
        let (append, judged, now) = match self.judge(&experiment, judgements) {
            Ok(decided) => decided,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let appending = self.log.append(append);
        let progress = self.hosted.get(&experiment).map(|hosted| hosted.progress.clone());
        let failure = self.failure.clone();
        Box::pin(async move {
            if let Err(error) = appending.await {
                failure.report(error.clone());
                return Err(error.into());
            }
            progress.iter().for_each(|progress| publish(progress, now.clone()));
            Ok(judged)
        })
    }
}

/// An experiment whose state is loaded, to be hosted from now on.
#[derive(Message)]
#[rtype(result = "Rejections")]
pub(crate) struct Adopt {
    pub(crate) experiment: ExperimentId,
    pub(crate) progress: watch::Sender<Progress>,
    /// Checks the artifacts that trainings name; `None` if the plan does not learn.
    pub(crate) check: Option<ArtifactCheck>,
}

impl Handler<Adopt> for Journal {
    type Result = MessageResult<Adopt>;

    fn handle(&mut self, adopt: Adopt, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.adopt(adopt))
    }
}

/// An experiment whose steps no longer run here. Its state is dropped.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Leave(pub(crate) ExperimentId);

impl Handler<Leave> for Journal {
    type Result = ();

    fn handle(&mut self, Leave(experiment): Leave, _: &mut Self::Context) {
        self.hosted.remove(&experiment);
        self.states.remove(&experiment);
    }
}

/// The experiments of a log whose steps do not run here.
#[derive(Clone)]
pub(crate) struct IdleExperiments {
    log: Arc<dyn EventLog>,
    hosted: States,
    idle: States,
}

impl fmt::Debug for IdleExperiments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleExperiments").field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl IdleExperiments {
    /// Rebuilds the state of an experiment that is not loaded, so that the journal can decide at once. Reads
    /// the log, and blocks.
    fn load(&self, experiment: &ExperimentId) -> Result<(), CommandError> {
        if self.hosted.version(experiment) > 0 || self.idle.version(experiment) > 0 {
            return Ok(());
        }
        self.idle.load_existing(&*self.log, experiment)
    }

    /// Drops a state that was loaded for a command.
    fn drop_state(&self, experiment: &ExperimentId) {
        self.idle.remove(experiment);
    }
}

/// Starts the journal on an arbiter of its own: it reads the log, and reading blocks.
pub(crate) fn start(
    journal: Journal,
    broker: &dyn Broker,
    arbiter: &actix::ArbiterHandle,
) -> Result<Addr<Journal>, BrokerError> {
    start_bounded(journal, broker, arbiter, Arc::new(Semaphore::new(IN_FLIGHT_MAX)))
}

/// As [`start`], with the permits of proposals in flight, at most [`IN_FLIGHT_MAX`].
pub(crate) fn start_bounded(
    journal: Journal,
    broker: &dyn Broker,
    arbiter: &actix::ArbiterHandle,
    in_flight: Arc<Semaphore>,
) -> Result<Addr<Journal>, BrokerError> {
    let mut proposals = broker.proposals()?;
    let failure = journal.failure.clone();
    let addr = Journal::start_in_arbiter(arbiter, |_| journal);
    let journal = addr.clone();
    actix::spawn(async move {
        while let Some(delivery) = proposals.next().await {
            let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
            let handed_over = match addr.try_send(Decide(delivery, permit)) {
                // Until the journal runs, its mailbox holds 16; more may wait after the server was down.
                Err(SendError::Full(decide)) => addr.send(decide).await.is_ok(),
                sent => sent.is_ok(),
            };
            if !handed_over {
                return failure.report(RunFailure::Gone("journal"));
            }
        }
    });
    Ok(journal)
}
