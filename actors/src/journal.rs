//! The journal: the one writer of history. It decides each proposal against the state of its experiment, appends
//! what may happen, and answers when that is durable.
//!
//! Proposals are decided one after another, on a state that already holds what is still on its way to the
//! disk; so many of them become durable in one group commit. If a write fails, nothing more is accepted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use dissent_domain::event::{Event, NewEvent};
use dissent_domain::experiment::{Due, Experiment};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion, LogError};
use dissent_domain::replay::{Replay, ReplayError};
use dissent_domain::round::RoundCounts;
use dissent_queues::{Answer, Broker, BrokerError, Proposal, ProposalDelivery};
use tokio::sync::{Semaphore, watch};

use crate::clock::now_us;
use crate::step::Failure;

/// Proposals decided but not yet durable. More would only lengthen the wait: a group commit takes 256 events.
const IN_FLIGHT_MAX: usize = 256;
/// Events read from the log at once when a state is rebuilt.
const PAGE: usize = 1024;

/// How far an experiment has come, as far as it is durable.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// Rounds planned.
    pub rounds: u32,
    /// The open or last round, from 0; none before the first.
    pub round: Option<u32>,
    /// Counts of that round.
    pub counts: RoundCounts,
    /// Whether everything planned is done.
    pub finished: bool,
}

impl Progress {
    pub(crate) fn of(experiment: &Experiment) -> Self {
        let round = experiment.rounds().last();
        Self {
            rounds: experiment.plan().map_or(0, |plan| plan.rounds),
            round: round.map(|round| round.number()),
            counts: round.map(|round| round.counts()).unwrap_or_default(),
            finished: experiment.is_finished(),
        }
    }
}

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

/// The states of the experiments, as the journal decided them. Others may look; only the journal writes.
#[derive(Debug, Clone, Default)]
pub struct States(Arc<Mutex<HashMap<ExperimentId, State>>>);

#[derive(Debug, Default)]
struct State {
    experiment: Experiment,
    version: u64,
}

impl States {
    /// Rebuilds the state of an experiment from its events.
    ///
    /// # Errors
    /// If the log cannot be read or does not make sense.
    pub fn load(&self, log: &dyn EventLog, experiment: &ExperimentId) -> Result<(), LoadError> {
        let mut replay = Replay::new();
        loop {
            let page = log.read_stream(experiment, replay.version(), PAGE)?;
            if page.is_empty() {
                break;
            }
            for recorded in &page {
                replay.apply(recorded)?;
            }
        }
        let version = replay.version();
        self.lock().insert(experiment.clone(), State { experiment: replay.into_experiment(), version });
        Ok(())
    }

    /// What the coordinator has to propose next.
    #[must_use]
    pub fn due(&self, experiment: &ExperimentId) -> Option<Due> {
        self.lock().get(experiment)?.experiment.due()
    }

    /// How far an experiment has come.
    #[must_use]
    pub fn progress(&self, experiment: &ExperimentId) -> Progress {
        self.lock().get(experiment).map(|state| Progress::of(&state.experiment)).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExperimentId, State>> {
        // A panic while deciding leaves the state unchanged or the process dead.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Decides and appends.
pub(crate) struct Journal {
    log: Arc<dyn EventLog>,
    states: States,
    progress: Arc<watch::Sender<Progress>>,
    failure: Failure,
}

impl Journal {
    pub(crate) fn new(
        log: Arc<dyn EventLog>,
        states: States,
        progress: watch::Sender<Progress>,
        failure: Failure,
    ) -> Self {
        Self { log, states, progress: Arc::new(progress), failure }
    }

    /// Decides a proposal; on acceptance the state is evolved and the append is under way.
    fn decide(&self, proposal: &Proposal) -> Result<Decision, LogError> {
        let mut states = self.states.lock();
        let Some(state) = states.get_mut(&proposal.experiment) else {
            return Ok(Decision::Rejected(format!(
                "{} is not an experiment of this journal",
                proposal.experiment
            )));
        };
        let mut fresh = Vec::with_capacity(proposal.events.len());
        for new in &proposal.events {
            if self.log.find(new.id)?.is_some() {
                continue;
            }
            let event = match dissent_domain::event::decode(&new.event_type, new.schema_version, &new.body) {
                Ok(event) => event,
                Err(error) => return Ok(Decision::Rejected(error.to_string())),
            };
            if let Err(rejection) = state.experiment.decide(&event) {
                return Ok(Decision::Rejected(rejection.to_string()));
            }
            fresh.push(event);
        }
        Ok(Decision::Accepted {
            append: state.accept(proposal, &fresh),
            progress: Progress::of(&state.experiment),
        })
    }
}

impl State {
    fn accept(&mut self, proposal: &Proposal, fresh: &[Event]) -> Append {
        let expected = ExpectedVersion::Exact(self.version);
        for event in fresh {
            self.experiment.evolve(event);
        }
        self.version += fresh.len() as u64;
        let time_us = now_us();
        let events = proposal.events.iter().map(|event| NewEvent { time_us, ..event.clone() }).collect();
        Append { experiment: proposal.experiment.clone(), expected, events }
    }
}

enum Decision {
    Accepted { append: Append, progress: Progress },
    Rejected(String),
}

impl Actor for Journal {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The intake holds a permit for each proposal it sends, so the mailbox is never full.
        ctx.set_mailbox_capacity(IN_FLIGHT_MAX);
    }
}

/// A proposal to decide, with the permit that bounds how many are in flight.
#[derive(Message)]
#[rtype(result = "()")]
struct Decide(ProposalDelivery, tokio::sync::OwnedSemaphorePermit);

impl Handler<Decide> for Journal {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Decide(delivery, permit): Decide, _: &mut Self::Context) -> Self::Result {
        let decision = self.decide(&delivery.proposal);
        let appended = match decision {
            Ok(Decision::Accepted { append, progress }) => Ok((self.log.append(append), progress)),
            Ok(Decision::Rejected(reason)) => Err(Answer::Rejected { reason }),
            Err(error) => {
                self.failure.report(error.to_string());
                return Box::pin(std::future::ready(()));
            }
        };
        let (progress, failure) = (self.progress.clone(), self.failure.clone());
        Box::pin(async move {
            let answer = match appended {
                Err(rejected) => rejected,
                Ok((append, now)) => match append.await {
                    Ok(recorded) => {
                        progress.send_replace(now);
                        Answer::Recorded(recorded)
                    }
                    // Unanswered, the proposer does not acknowledge what it worked on.
                    Err(error) => return failure.report(error.to_string()),
                },
            };
            if let Err(error) = delivery.answer(answer).await {
                tracing::warn!(%error, "failed to answer a proposal");
            }
            drop(permit);
        })
    }
}

/// Starts the journal on an arbiter of its own: it reads the log, and reading blocks.
pub(crate) fn start(
    journal: Journal,
    broker: &dyn Broker,
    arbiter: &actix::ArbiterHandle,
) -> Result<(), BrokerError> {
    let mut proposals = broker.proposals()?;
    let failure = journal.failure.clone();
    let addr = Journal::start_in_arbiter(arbiter, |_| journal);
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    actix::spawn(async move {
        while let Some(delivery) = proposals.next().await {
            let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
            if addr.try_send(Decide(delivery, permit)).is_err() {
                return failure.report("the journal is gone".to_owned());
            }
        }
    });
    Ok(())
}
