//! One experiment in the process of the journal: its steps, its watches, its failure and its health.

use std::sync::Arc;

use dissent_domain::event::{EventId, ExperimentStarted, NewEvent, StepName};
use dissent_domain::log::EventLog;
use dissent_domain::operator::ExperimentStatus;
use dissent_domain::plan::Plan;
use dissent_models::runtime::CancelFlag;
use dissent_queues::{Broker, BrokerError, MessageContext, Proposal};
use dissent_storage::SNAPSHOT_EVENTS;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ending::Ending;
use super::health::ProcessHealth;
use super::history::{History as _, LogHistory};
use super::resources::Resources;
use super::step_set::{self, RunningSteps, subscriptions};
use crate::error::{PipelineError, RunFailure};
use crate::journal::snapshots::SnapshotWriter;
use crate::runner::context::{StepContext, group};
use crate::runner::failure::Failure;
use crate::runner::gate::Gate;
use crate::runner::known::KnownHistory;
use crate::runner::propose::decision;
use crate::runner::redelivery::{self, Rejections};
use crate::runner::stop::StopSwitch;
use crate::runner::turns::Turns;
use crate::runner::{self, set_aside};
use crate::state::States;
use crate::state::progress::Progress;
use crate::steps::PIPELINE;
use crate::steps::prompt::PromptStep;
use crate::steps::round::RoundStep;
use crate::steps::training::assignment::TrainingIntake;
use crate::steps::training::lease;

/// An experiment whose steps run in this process.
pub(super) struct RunningExperiment {
    running: RunningSteps,
    /// Tasks that watch clocks.
    watches: Vec<JoinHandle<()>>,
    stop: StopSwitch,
    failure: watch::Receiver<Option<RunFailure>>,
    pub(super) cancel: CancelFlag,
    pub(super) health: ProcessHealth,
    waits_for_people: bool,
    snapshots: Option<SnapshotWriter>,
}

/// The parts of an experiment that its host provides before its steps start.
pub(super) struct Hosting {
    pub(super) states: States,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) rejections: Rejections,
    pub(super) failure: Failure,
    pub(super) failed: watch::Receiver<Option<RunFailure>>,
    pub(super) appends: Histogram,
    pub(super) turns: Turns,
    pub(super) advanced: watch::Receiver<u64>,
}

impl RunningExperiment {
    /// Starts every step where the experiment stopped, or from its beginning.
    pub(super) async fn start(
        plan: &Plan,
        resources: Resources,
        hosting: Hosting,
    ) -> Result<Self, PipelineError> {
        let Hosting { states, progress, rejections, failure, failed, appends, turns, advanced } = hosting;
        let (log, broker, cancel) =
            (resources.log.clone(), resources.broker.clone(), resources.cancel.clone());
        let waits_for_people = resources.waits_for_people;
        let experiment = plan.experiment.clone();
        let snapshots = resources.snapshots.clone().map(|snapshots| SnapshotWriter {
            snapshots,
            log: log.clone(),
            experiment: experiment.clone(),
        });
        let (stop, stopped) = StopSwitch::new();
        let context = StepContext {
            experiment: experiment.clone(),
            broker: broker.clone(),
            failure,
            known: KnownHistory::all(),
            gate: Gate::of(progress.clone()),
            pipeline: &PIPELINE,
            stop: stopped,
            states: states.clone(),
            turns,
        };
        broker.host(&experiment)?;
        if !resources.shared {
            expire_old_lease(&states, &context).await?;
        }
        let mut watches = vec![actix::spawn(set_aside::run(broker.parked(&experiment)?, context.clone()))];
        let version = states.version(&experiment);
        let history = LogHistory::following(log.clone(), experiment.clone(), version, advanced);
        let (builder, prompts, learning) = step_set::split(plan, resources, &states);
        let mut running = builder.start(learning, &context)?;
        running.steps.push(runner::start(RoundStep::new(states.clone(), experiment.clone()), &context)?);
        running.steps.push(runner::start(PromptStep::new(prompts), &context)?);
        let health = ProcessHealth {
            progress,
            meter: builder.meter,
            appends: Some(appends),
            states: states.clone(),
            experiment,
            log: log.clone(),
        };
        watches.push(actix::spawn(redelivery_of(plan, states.clone(), log, rejections, &context)));
        if plan.learning.is_some() {
            watches.push(actix::spawn(lease::watch(states, context.clone())));
            if let Some(intake) = running.intake() {
                watches.push(actix::spawn(begin_trainings(history, intake, context.failure.clone())));
            }
        }
        if let Some(writer) = snapshots.clone() {
            watches.push(actix::spawn(writer.run(health.progress.clone(), SNAPSHOT_EVENTS)));
        }
        begin(&*broker, plan).await?;
        Ok(Self { running, watches, stop, failure: failed, cancel, health, waits_for_people, snapshots })
    }

    /// The end of the experiment, to wait for.
    pub(super) fn end(&self) -> RunEnd {
        RunEnd {
            progress: self.health.progress.clone(),
            failure: self.failure.clone(),
            waits_for_people: self.waits_for_people,
        }
    }

    /// Tells every step to stop after its batch.
    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    /// Stops the steps and the watches, and waits until the steps have finished.
    pub(super) async fn drained(self) -> Option<SnapshotWriter> {
        self.stop.stop();
        // First: the watch that begins trainings keeps the thread of the trainer.
        for watch in self.watches {
            watch.abort();
            // Its consumers and its context are dropped then.
            let _aborted = watch.await;
        }
        self.running.drained().await;
        self.snapshots
    }
}

/// The end of an experiment that runs in this process.
#[derive(Debug, Clone)]
pub struct RunEnd {
    progress: watch::Receiver<Progress>,
    failure: watch::Receiver<Option<RunFailure>>,
    waits_for_people: bool,
}

impl RunEnd {
    /// Waits for the end of the experiment. If the process does not wait for people, waits at most until the
    /// experiment does.
    ///
    /// # Errors
    /// If a step fails.
    pub async fn ended(&mut self) -> Result<Ending, PipelineError> {
        let gone = || PipelineError::Failed(RunFailure::Gone("journal"));
        let waits_for_people = self.waits_for_people;
        let ending = |progress: &Progress| match progress {
            Progress { finished: true, .. } => Some(Ending::Finished),
            Progress { status: ExperimentStatus::Cancelled, .. } => Some(Ending::Cancelled),
            Progress { waits_for_people: true, .. } if !waits_for_people => Some(Ending::WaitsForPeople),
            _ => None,
        };
        tokio::select! {
            finished = self.progress.wait_for(|progress| ending(progress).is_some()) => {
                let progress = finished.map_err(|_| gone())?;
                ending(&progress).ok_or_else(gone)
            }
            failed = self.failure.wait_for(Option::is_some) => {
                Err(failed.map_err(|_| gone())?.clone().map_or_else(gone, PipelineError::Failed))
            }
        }
    }
}

/// Redelivers the events of every step except the round step, which answers its events together.
fn redelivery_of(
    plan: &Plan,
    states: States,
    log: Arc<dyn EventLog>,
    rejections: Rejections,
    context: &StepContext,
) -> impl Future<Output = ()> + use<> {
    let round = group(StepName::Round, &plan.experiment);
    let steps = subscriptions(plan, 1).into_iter().filter(|step| step.group != round).collect();
    redelivery::watch(states, log, steps, redelivery::PATIENCE, rejections, context.clone())
}

/// Begins trainings once their start is durable.
async fn begin_trainings(mut history: LogHistory, intake: Arc<TrainingIntake>, failure: Failure) {
    loop {
        let begun = match history.next().await {
            Ok(Some(recorded)) => intake.observe(&recorded).map_err(RunFailure::training),
            Ok(None) => return,
            Err(reason) => Err(RunFailure::History(reason)),
        };
        if let Err(error) = begun {
            return failure.report(error);
        }
    }
}

/// Only one process has the log open at a time: without workers elsewhere, the holder of an old lease is
/// gone.
async fn expire_old_lease(states: &States, context: &StepContext) -> Result<(), BrokerError> {
    match states.lease(&context.experiment) {
        Some(lease) => lease::expire(&lease, context).await,
        None => Ok(()),
    }
}

/// Proposes the start of the experiment. The journal answers a repeated start with the recorded one.
async fn begin(broker: &dyn Broker, plan: &Plan) -> Result<(), PipelineError> {
    let started = ExperimentStarted::new(plan.clone());
    let id = EventId::of_experiment(&plan.experiment);
    let event = NewEvent::new(id, None, "cli", 0, &started.into())?;
    let events = vec![event];
    let proposal = || Proposal { experiment: plan.experiment.clone(), cause: None, events: events.clone() };
    decision(broker, proposal, &MessageContext::new()).await?.map_err(PipelineError::Rejected)
}
