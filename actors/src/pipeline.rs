//! The process that writes history: journal, coordinator and the steps of its roles, over one log and one broker. Start, watch,
//! drain.

use std::path::PathBuf;
use std::sync::Arc;

use actix::Arbiter;
use dissent_domain::event::{EventId, ExperimentStarted, NewEvent};
use dissent_domain::log::{EventLog, LogError};
use dissent_domain::operator::ExperimentStatus;
use dissent_domain::plan::{FeedbackSource, Plan};
use dissent_models::runtime::CancelFlag;
use dissent_queues::{Broker, BrokerError, Proposal, ProposalReply};
use dissent_storage::SNAPSHOT_EVENTS;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::control::Control;
use crate::crew::{self, Crew, Resources};
use crate::evidence::Evidence;
use crate::gate::Gate;
use crate::generation::TokenMeter;
use crate::history::{History as _, LogHistory};
use crate::inbox;
use crate::journal::{self, Journal, LoadError, States};
use crate::neglect;
use crate::progress::Progress;
use crate::prompt::Prompts;
use crate::round::Coordinator;
use crate::set_aside;
use crate::snapshot::Keeper;
use crate::step::{self, Failure, Known, Surroundings};
use crate::training::Intake;
use crate::training::lease;
use crate::vitals::Vitals;

/// How a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything planned is done.
    Finished,
    /// It can only go on once people have judged comparisons.
    WaitsForPeople,
    /// It can only go on once an operator resumes it.
    Paused,
    /// An operator gave it up.
    Cancelled,
}

/// Why a pipeline did not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The experiment's history cannot be rebuilt.
    #[error("failed to load the experiment")]
    Load(#[from] LoadError),
    /// The broker refused.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The experiment cannot be started.
    #[error("failed to start the experiment: {0}")]
    Rejected(String),
    /// A step cannot go on.
    #[error("{0}")]
    Failed(String),
}

/// A running pipeline. Needs an actix system around it.
pub struct Pipeline {
    log: Arc<dyn EventLog>,
    broker: Arc<dyn Broker>,
    crew: Crew,
    /// Tasks that look at clocks and folders.
    watchers: Vec<JoinHandle<()>>,
    set_aside: JoinHandle<()>,
    journal_arbiter: Arbiter,
    failure: watch::Receiver<Option<String>>,
    cancel: CancelFlag,
    vitals: Vitals,
    has_inbox: bool,
    keeper: Option<Keeper>,
    control: Control,
}

impl Pipeline {
    /// Starts every step of an experiment where it stopped, or from its beginning.
    ///
    /// # Errors
    /// If its history cannot be rebuilt, log or broker refuse, or the plan asks for what the resources do not have.
    pub async fn start(plan: &Plan, resources: Resources) -> Result<Self, PipelineError> {
        let (log, broker, cancel) =
            (resources.log.clone(), resources.broker.clone(), resources.cancel.clone());
        let (failure, failed) = Failure::new();
        let states = States::default();
        let keeper = resources.snapshots.clone().map(|snapshots| Keeper {
            snapshots,
            log: log.clone(),
            experiment: plan.experiment.clone(),
        });
        states.load(&*log, &plan.experiment, resources.snapshots.as_ref())?;
        let (progress, progressed) = watch::channel(states.progress(&plan.experiment));
        let journal_arbiter = Arbiter::new();
        let evidence = Evidence::of(&resources);
        let (journal, rejections) =
            Journal::new(log.clone(), states.clone(), progress, failure.clone(), evidence);
        let (appends, bystanders) = (Some(journal.appends()), journal.bystanders());
        let control = Control::of(journal::start(journal, &*broker, &journal_arbiter.handle())?, bystanders);

        let experiment = plan.experiment.clone();
        let around = Surroundings {
            experiment: experiment.clone(),
            broker: broker.clone(),
            failure,
            known: Known::all(),
            gate: Gate::of(progressed.clone()),
        };
        if !resources.shared {
            give_up_old_lease(&states, &around).await?;
        }
        let set_aside = actix::spawn(set_aside::run(broker.parked()?, around.clone()));
        let history = LogHistory::after(log.clone(), experiment.clone(), states.version(&experiment));
        let (shop, prompts, learning) = crew::split(plan, resources, &states);
        let inbox = learning.as_ref().and_then(|learning| learning.inbox.clone());
        let has_inbox = inbox.is_some();
        let mut crew = shop.start(learning, &around)?;
        crew.steps.push(step::start(Coordinator::new(states.clone(), experiment), &around)?);
        crew.steps.push(step::start(Prompts::new(prompts), &around)?);
        let experiment = plan.experiment.clone();
        let vitals = Vitals {
            progress: progressed,
            meter: shop.meter,
            appends,
            states: states.clone(),
            experiment,
            log: log.clone(),
        };
        let neglect =
            neglect::watch(states.clone(), log.clone(), plan, neglect::PATIENCE, rejections, around.clone());
        let mut watchers = Watchers { states, history, intake: crew.intake(), inbox }.start(plan, &around);
        watchers.push(actix::spawn(neglect));
        if let Some(keeper) = keeper.clone() {
            watchers.push(actix::spawn(keeper.run(vitals.progress.clone(), SNAPSHOT_EVENTS)));
        }
        begin(&*broker, plan).await?;
        Ok(Self {
            log,
            broker,
            crew,
            watchers,
            set_aside,
            journal_arbiter,
            failure: failed,
            cancel,
            vitals,
            has_inbox,
            keeper,
            control,
        })
    }

    /// How far it has come; changes as it goes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.vitals.progress.clone()
    }

    /// Response tokens sampled by this process.
    #[must_use]
    pub fn meter(&self) -> TokenMeter {
        self.vitals.meter.clone()
    }

    /// What may be watched while it runs, and after.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.vitals.clone()
    }

    /// Gives orders to the experiments of the log.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits until the experiment is over, or, without an inbox, until only people can bring it on. A paused one may be resumed any
    /// time: it is waited for.
    ///
    /// # Errors
    /// If a step cannot go on.
    pub async fn finished(&mut self) -> Result<Ending, PipelineError> {
        let gone = || PipelineError::Failed("the journal is gone".to_owned());
        let has_inbox = self.has_inbox;
        let ending = |progress: &Progress| match progress {
            Progress { finished: true, .. } => Some(Ending::Finished),
            Progress { standing: ExperimentStatus::Cancelled, .. } => Some(Ending::Cancelled),
            Progress { waits_for_people: true, .. } if !has_inbox => Some(Ending::WaitsForPeople),
            _ => None,
        };
        tokio::select! {
            finished = self.vitals.progress.wait_for(|progress| ending(progress).is_some()) => {
                let progress = finished.map_err(|_| gone())?;
                ending(&progress).ok_or_else(gone)
            }
            failed = self.failure.wait_for(Option::is_some) => {
                let reason = failed.map_err(|_| gone())?.clone().unwrap_or_default();
                Err(PipelineError::Failed(reason))
            }
        }
    }

    /// Gives up what is being computed: it will be computed again, with the same result.
    pub fn cancel_handle(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// Stops in order: no more intake, finish what is in hand, make everything durable, stop. A training ends at its next step,
    /// with a checkpoint to go on from.
    ///
    /// # Errors
    /// If the log cannot be made durable.
    pub async fn drain(self) -> Result<(), PipelineError> {
        self.broker.close();
        self.watchers.iter().for_each(JoinHandle::abort);
        self.crew.drained().await;
        let _ = self.set_aside.await;
        self.broker.drained().await?;
        self.journal_arbiter.stop();
        let log = self.log.clone();
        let flushed = tokio::task::spawn_blocking(move || log.flush()).await;
        flushed.map_err(|error| PipelineError::Failed(error.to_string()))??;
        if let Some(keeper) = &self.keeper {
            keeper.keep().await;
        }
        Ok(())
    }
}

/// What is watched beside the steps: clocks, folders, and the history itself.
struct Watchers {
    states: States,
    history: LogHistory,
    intake: Option<Arc<Intake>>,
    inbox: Option<PathBuf>,
}

impl Watchers {
    fn start(self, plan: &Plan, around: &Surroundings) -> Vec<JoinHandle<()>> {
        let Some(learns) = &plan.learning else { return Vec::new() };
        let mut watchers = vec![actix::spawn(lease::watch(self.states, around.clone()))];
        if let Some(intake) = self.intake {
            watchers.push(actix::spawn(begin_trainings(self.history, intake, around.failure.clone())));
        }
        if let (FeedbackSource::People, Some(inbox)) = (learns.feedback.source, self.inbox) {
            watchers.push(actix::spawn(inbox::watch(inbox, Arc::new(plan.clone()), around.clone())));
        }
        watchers
    }
}

/// Begins trainings once it is durable that this process has taken them up.
async fn begin_trainings(mut history: LogHistory, intake: Arc<Intake>, failure: Failure) {
    loop {
        let begun = match history.next().await {
            Ok(Some(recorded)) => intake.take_note(&recorded).map_err(|error| error.to_string()),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        if let Err(reason) = begun {
            return failure.report(format!("the training step failed: {reason}"));
        }
    }
}

/// One process at a time has the log open: where no other trains, whoever holds a lease when it is opened is gone.
async fn give_up_old_lease(states: &States, around: &Surroundings) -> Result<(), BrokerError> {
    match states.lease(&around.experiment) {
        Some(lease) => lease::expire(&lease, around).await,
        None => Ok(()),
    }
}

/// Proposes the start of the experiment: a second time it is answered with the first.
async fn begin(broker: &dyn Broker, plan: &Plan) -> Result<(), PipelineError> {
    let started = ExperimentStarted::new(plan.clone());
    let id = EventId::of_experiment(&plan.experiment);
    let event = NewEvent::new(id, None, "cli", 0, &started.into())
        .map_err(|error| PipelineError::Rejected(error.to_string()))?;
    let proposal = Proposal { experiment: plan.experiment.clone(), cause: None, events: vec![event] };
    match broker.propose(proposal).await? {
        ProposalReply::Recorded(_) | ProposalReply::Queued => Ok(()),
        ProposalReply::Rejected { reason } => Err(PipelineError::Rejected(reason)),
    }
}
