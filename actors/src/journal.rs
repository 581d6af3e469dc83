//! The journal: the one writer of history. It decides each proposal against the state of its experiment, appends
//! what may happen, and answers when that is durable.
//!
//! Proposals are decided one after another, on a state that already holds what is still on its way to the
//! disk; so many of them become durable in one group commit. If a write fails, nothing more is accepted.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix::dev::SendError;
use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture};
use dissent_domain::decision::Due;
use dissent_domain::event::{Event, EventId, EventType, NewEvent, Recorded, Stage};
use dissent_domain::experiment::Experiment;
use dissent_domain::id::ExperimentId;
use dissent_domain::journal::{Accepted, Decision, Ledger};
use dissent_domain::learning::{ModelVersion, Training, TrainingProgress};
use dissent_domain::log::{Append, EventLog, LogError};
use dissent_domain::operator::{ExperimentStatus, OperatorCommand};
use dissent_domain::replay::{Replay, ReplayError};
use dissent_queues::{Broker, BrokerError, Proposal, ProposalDelivery, ProposalReply};
use dissent_storage::{ResumeError, SNAPSHOT_EVENTS, Snapshots};
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::Instrument as _;

use crate::clock::now_us;
use crate::control::{OrderError, Ordered};
use crate::evidence::Evidence;
use crate::progress::Progress;
use crate::step::Failure;
use crate::trace;
use crate::vitals::append_seconds;

/// Proposals decided but not yet durable. More would only lengthen the wait: a group commit takes 256 events.
const IN_FLIGHT_MAX: usize = 256;
/// Events read from the log at once when a state is rebuilt.
const PAGE: usize = 1024;

/// A state cannot be rebuilt from the log.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An event cannot be applied.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

impl From<ResumeError> for LoadError {
    fn from(error: ResumeError) -> Self {
        match error {
            ResumeError::Log(error) => Self::Log(error),
            ResumeError::Replay(error) => Self::Replay(error),
        }
    }
}

/// The states of the experiments, as the journal decided them. Others may look; only the journal writes.
#[derive(Debug, Clone, Default)]
pub struct States(Arc<Mutex<HashMap<ExperimentId, State>>>);

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    /// When this process last saw that a training goes on. No rule reads it: it is for whoever watches the leases. Not the time in
    /// the event: clocks jump, and differ between hosts.
    sign_of_life: Option<Instant>,
}

/// A training that a worker holds a lease on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) round: u32,
    pub(crate) stage: Stage,
    pub(crate) attempt: u32,
    /// The training's request.
    pub(crate) requested: EventId,
    pub(crate) lease_ms: u64,
    /// How long there has been no sign of life, as far as this process saw.
    pub(crate) silent: Duration,
}

impl States {
    /// Rebuilds the state of an experiment from its events, those that a snapshot holds aside.
    ///
    /// # Errors
    /// If the log cannot be read or does not make sense.
    pub fn load(
        &self,
        log: &dyn EventLog,
        experiment: &ExperimentId,
        snapshots: Option<&Snapshots>,
    ) -> Result<(), LoadError> {
        let replay = match snapshots {
            Some(snapshots) => snapshots.resume(log, experiment, SNAPSHOT_EVENTS)?,
            None => replayed(log, experiment)?,
        };
        // What a worker elsewhere said while nobody wrote it down is yet to come: it has its whole lease for that.
        let state = State { ledger: replay.into(), sign_of_life: Some(Instant::now()) };
        self.lock().insert(experiment.clone(), state);
        Ok(())
    }

    /// As [`load`](Self::load), of an experiment that there is.
    pub(crate) fn load_existing(
        &self,
        log: &dyn EventLog,
        experiment: &ExperimentId,
    ) -> Result<(), OrderError> {
        if log.read_stream(experiment, 0, 1)?.is_empty() {
            return Err(OrderError::Unknown(experiment.clone()));
        }
        Ok(self.load(log, experiment, None)?)
    }

    /// Decides an operator's order; on acceptance the state is evolved, and what is given is to be appended now.
    pub(crate) fn order(
        &self,
        experiment: &ExperimentId,
        order: &OperatorCommand,
    ) -> Result<(Option<Append>, Ordered), OrderError> {
        let mut states = self.lock();
        let state = states.get_mut(experiment).ok_or_else(|| OrderError::Unknown(experiment.clone()))?;
        let append = state
            .ledger
            .command(order, now_us())
            .map_err(|rejection| OrderError::Rejected { experiment: experiment.clone(), rejection })?;
        let ordered = Ordered { standing: state.ledger.experiment().status(), changed: append.is_some() };
        Ok((append, ordered))
    }

    /// Whether an experiment may go on.
    #[must_use]
    pub fn standing(&self, experiment: &ExperimentId) -> ExperimentStatus {
        self.look(experiment, Experiment::status).unwrap_or_default()
    }

    /// Takes up the next event of an experiment, where another process writes its history.
    ///
    /// # Errors
    /// If it does not follow what is known, or cannot be read.
    pub(crate) fn follow(&self, recorded: &Recorded) -> Result<(), ReplayError> {
        let mut states = self.lock();
        let state = states.entry(recorded.experiment.clone()).or_default();
        state.ledger.follow(recorded)?;
        if EventType::from_name(&recorded.event.event_type).is_some_and(is_sign_of_life) {
            state.sign_of_life = Some(Instant::now());
        }
        Ok(())
    }

    /// Looks at the state of an experiment; none if it is not of this journal. Nothing is decided meanwhile: be short.
    pub(crate) fn look<T>(&self, experiment: &ExperimentId, at: impl FnOnce(&Experiment) -> T) -> Option<T> {
        self.lock().get(experiment).map(|state| at(state.ledger.experiment()))
    }

    /// The version of the last event that was decided; 0 before the first.
    pub(crate) fn version(&self, experiment: &ExperimentId) -> u64 {
        self.lock().get(experiment).map_or(0, |state| state.ledger.version())
    }

    /// The policy that answers now; none before the start.
    #[must_use]
    pub fn policy(&self, experiment: &ExperimentId) -> Option<ModelVersion> {
        self.look(experiment, Experiment::policy)?
    }

    /// The reward model that scores now; none before the start.
    #[must_use]
    pub fn reward_model(&self, experiment: &ExperimentId) -> Option<ModelVersion> {
        self.look(experiment, Experiment::reward_model)?
    }

    /// The lease that is held in the open round, if any; none counts once the experiment was given up.
    pub(crate) fn lease(&self, experiment: &ExperimentId) -> Option<Lease> {
        let states = self.lock();
        let state = states.get(experiment)?;
        let round = state.ledger.experiment().rounds().last()?;
        if state.ledger.experiment().is_over() {
            return None;
        }
        let stages = [Stage::Reward, Stage::Policy];
        stages.into_iter().find_map(|stage| {
            let Training { attempt, requested, progress, .. } = round.learning().training(stage)?;
            let TrainingProgress::Running { lease_ms, .. } = *progress else { return None };
            let (round, attempt, requested) = (round.number(), *attempt, *requested);
            let silent = state.sign_of_life.map(|seen| seen.elapsed()).unwrap_or_default();
            Some(Lease { round, stage, attempt, requested, lease_ms, silent })
        })
    }

    /// Events that a step has yet to answer, each the latest of its kind.
    pub(crate) fn unanswered(&self, experiment: &ExperimentId) -> Vec<EventId> {
        self.lock().get(experiment).map_or_else(Vec::new, |state| state.ledger.unanswered())
    }

    /// What the coordinator has to propose next.
    #[must_use]
    pub fn due(&self, experiment: &ExperimentId) -> Option<Due> {
        self.lock().get(experiment)?.ledger.experiment().due()
    }

    /// How far an experiment has come.
    #[must_use]
    pub fn progress(&self, experiment: &ExperimentId) -> Progress {
        let states = self.lock();
        states.get(experiment).map(State::progress).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExperimentId, State>> {
        // A panic while deciding leaves the state unchanged or the process dead.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn replayed(log: &dyn EventLog, experiment: &ExperimentId) -> Result<Replay, LoadError> {
    let mut replay = Replay::new();
    loop {
        let page = log.read_stream(experiment, replay.version(), PAGE)?;
        if page.is_empty() {
            return Ok(replay);
        }
        for recorded in &page {
            replay.apply(recorded)?;
        }
    }
}

/// What proposals that were rejected followed from.
pub(crate) type Rejections = mpsc::Receiver<EventId>;

/// Of them, as many as wait to be looked at; further ones are passed over, and found by patience.
const REJECTIONS_MAX: usize = 64;

/// Decides and appends.
pub(crate) struct Journal {
    log: Arc<dyn EventLog>,
    states: States,
    /// Experiments of the log whose steps are not at work here, and that an operator gave orders to.
    others: States,
    progress: Arc<watch::Sender<Progress>>,
    failure: Failure,
    appends: Histogram,
    /// Looks at what trainings say that they made; none where nothing is learnt.
    evidence: Option<Evidence>,
    /// Where what was rejected is said to have come from.
    rejected: mpsc::Sender<EventId>,
}

impl Journal {
    pub(crate) fn new(
        log: Arc<dyn EventLog>,
        states: States,
        progress: watch::Sender<Progress>,
        failure: Failure,
        evidence: Option<Evidence>,
    ) -> (Self, Rejections) {
        let (others, progress) = (States::default(), Arc::new(progress));
        let (rejected, rejections) = mpsc::channel(REJECTIONS_MAX);
        let appends = append_seconds();
        (Self { log, states, others, progress, failure, appends, evidence, rejected }, rejections)
    }

    /// Seconds from a decision to its being durable.
    pub(crate) fn appends(&self) -> Histogram {
        self.appends.clone()
    }

    /// Decides a proposal; on acceptance the state is evolved and the append is under way.
    fn decide(&self, proposal: &Proposal) -> Result<Decided, LogError> {
        // What is recorded was believed, and what the rules reject need not be looked at.
        let may_happen = |new: &NewEvent, event: &Event| {
            let allowed = |experiment: &Experiment| experiment.decide(event).is_ok();
            self.states.look(&proposal.experiment, allowed).unwrap_or(false)
                && matches!(self.log.find(new.id), Ok(None))
        };
        let doubt = self.evidence.as_ref().and_then(|it| it.against(&proposal.events, may_happen));
        if let Some(reason) = doubt {
            return Ok(Err(reason));
        }
        let mut states = self.states.lock();
        let Some(state) = states.get_mut(&proposal.experiment) else {
            return Ok(Err(format!("{} is not an experiment of this journal", proposal.experiment)));
        };
        let time_us = now_us();
        let is_known = |id| self.log.find(id).map(|known| known.is_some());
        match state.ledger.decide(&proposal.experiment, &proposal.events, time_us, is_known)? {
            Decision::Rejected(reason) => Ok(Err(reason)),
            Decision::Accepted(Accepted { append, fresh }) => {
                // What is only said again is no sign of life.
                if fresh.iter().any(|event| is_sign_of_life(event.event_type())) {
                    state.sign_of_life = Some(Instant::now());
                }
                Ok(Ok((append, state.progress())))
            }
        }
    }
}

impl State {
    fn progress(&self) -> Progress {
        Progress::of(self.ledger.experiment(), self.ledger.version())
    }
}

/// Whether an event shows that a training goes on.
fn is_sign_of_life(kind: EventType) -> bool {
    matches!(kind, EventType::TrainingStarted | EventType::TrainingProgressed)
}

/// An append under way and the progress once it is durable, or why the rules say no.
type Decided = Result<(Append, Progress), String>;

impl Actor for Journal {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The intake holds a permit for each proposal it sends, and orders come one at a time, so the mailbox is never full.
        ctx.set_mailbox_capacity(IN_FLIGHT_MAX + 1);
    }
}

/// A proposal to decide, with the permit that bounds how many are in flight.
#[derive(Message)]
#[rtype(result = "()")]
struct Decide(ProposalDelivery, tokio::sync::OwnedSemaphorePermit);

impl Handler<Decide> for Journal {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Decide(delivery, permit): Decide, _: &mut Self::Context) -> Self::Result {
        let Proposal { experiment, events, .. } = &delivery.proposal;
        let span = trace::of_proposal(experiment, events, &delivery.context);
        let decision = span.in_scope(|| self.decide(&delivery.proposal));
        let appended = match decision {
            Ok(Ok((append, progress))) => Ok((self.log.append(append), progress)),
            Ok(Err(reason)) => {
                if let Some(cause) = delivery.proposal.cause {
                    self.rejected.try_send(cause).ok();
                }
                Err(ProposalReply::Rejected { reason })
            }
            Err(error) => {
                self.failure.report(error.to_string());
                return Box::pin(std::future::ready(()));
            }
        };
        let (progress, failure, appends) =
            (self.progress.clone(), self.failure.clone(), self.appends.clone());
        let begun = Instant::now();
        let decided = async move {
            let answer = match appended {
                Err(rejected) => rejected,
                Ok((append, now)) => match append.await {
                    Ok(recorded) => {
                        appends.observe(begun.elapsed().as_secs_f64());
                        tell(&progress, now);
                        ProposalReply::Recorded(recorded)
                    }
                    // Unanswered, the proposer does not acknowledge what it worked on.
                    Err(error) => return failure.report(error.to_string()),
                },
            };
            if let Err(error) = delivery.answer(answer).await {
                tracing::warn!(%error, "failed to answer a proposal");
            }
            drop(permit);
        };
        Box::pin(decided.instrument(span))
    }
}

/// Appends that became durable together are told in any order: the farthest counts.
fn tell(progress: &watch::Sender<Progress>, now: Progress) {
    progress.send_if_modified(|known| {
        let is_newer = now.events >= known.events;
        if is_newer {
            *known = now;
        }
        is_newer
    });
}

/// An operator's order.
#[derive(Message)]
#[rtype(result = "Result<Ordered, OrderError>")]
pub(crate) struct Command {
    pub(crate) experiment: ExperimentId,
    pub(crate) order: OperatorCommand,
}

impl Handler<Command> for Journal {
    type Result = ResponseFuture<Result<Ordered, OrderError>>;

    fn handle(&mut self, Command { experiment, order }: Command, _: &mut Self::Context) -> Self::Result {
        let (append, ordered, now) = match self.order(&experiment, &order) {
            Ok((Some(append), ordered, now)) => (self.log.append(append), ordered, now),
            Ok((None, ordered, _)) => return Box::pin(std::future::ready(Ok(ordered))),
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let (progress, failure) = (self.progress.clone(), self.failure.clone());
        Box::pin(async move {
            if let Err(error) = append.await {
                failure.report(error.to_string());
                return Err(error.into());
            }
            now.into_iter().for_each(|now| tell(&progress, now));
            Ok(ordered)
        })
    }
}

impl Journal {
    /// What orders to experiments whose steps are not at work here begin with.
    pub(crate) fn bystanders(&self) -> Bystanders {
        let (log, at_work, others) = (self.log.clone(), self.states.clone(), self.others.clone());
        Bystanders { log, at_work, others }
    }

    /// Decides an order, and says what is then to be told of the experiment whose steps are at work here.
    fn order(&self, experiment: &ExperimentId, order: &OperatorCommand) -> Result<Decree, OrderError> {
        if self.states.version(experiment) > 0 {
            let (append, ordered) = self.states.order(experiment, order)?;
            return Ok((append, ordered, Some(self.states.progress(experiment))));
        }
        let (append, ordered) = self.others.order(experiment, order)?;
        Ok((append, ordered, None))
    }
}

/// The experiments of a log whose steps are not at work here.
#[derive(Clone)]
pub(crate) struct Bystanders {
    log: Arc<dyn EventLog>,
    at_work: States,
    others: States,
}

impl fmt::Debug for Bystanders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bystanders").field("others", &self.others).finish_non_exhaustive()
    }
}

impl Bystanders {
    /// Rebuilds the state of an experiment that has none yet, so that the journal can decide at once. It reads the log, and blocks.
    pub(crate) fn load(&self, experiment: &ExperimentId) -> Result<(), OrderError> {
        if self.at_work.version(experiment) > 0 || self.others.version(experiment) > 0 {
            return Ok(());
        }
        self.others.load_existing(&*self.log, experiment)
    }
}

/// What is to be appended for an order, what came of it, and how far the experiment is then, if its steps are at work here.
type Decree = (Option<Append>, Ordered, Option<Progress>);

/// Starts the journal on an arbiter of its own: it reads the log, and reading blocks.
pub(crate) fn start(
    journal: Journal,
    broker: &dyn Broker,
    arbiter: &actix::ArbiterHandle,
) -> Result<Addr<Journal>, BrokerError> {
    let mut proposals = broker.proposals()?;
    let failure = journal.failure.clone();
    let addr = Journal::start_in_arbiter(arbiter, |_| journal);
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let journal = addr.clone();
    actix::spawn(async move {
        while let Some(delivery) = proposals.next().await {
            let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
            let handed_over = match addr.try_send(Decide(delivery, permit)) {
                // Until the journal runs its mailbox takes 16, and more may wait where a server was away for a while.
                Err(SendError::Full(decide)) => addr.send(decide).await.is_ok(),
                sent => sent.is_ok(),
            };
            if !handed_over {
                return failure.report("the journal is gone".to_owned());
            }
        }
    });
    Ok(journal)
}
