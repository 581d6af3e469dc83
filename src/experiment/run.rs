//! Running an experiment in this process: from a configuration to its end, or to where it waits for people.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dissent_actors::{Ending, LeaseTimes, Pipeline, PipelineError, Resources, Roles, States, command_in_log};
use dissent_domain::event_ids::finished_id;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::operator::{Action, ExperimentStatus, OperatorCommand};
use dissent_domain::plan::Plan;
use dissent_models::runtime::CancelFlag;
use dissent_queues::{EmbeddedBroker, EmbeddedOptions};
use dissent_storage::{Snapshots, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::plan_check::refuse_another_plan;
use crate::config::Config;
use crate::error::Interrupted;
use crate::experiment::models::Models;
use crate::experiment::plan;
use crate::experiment::start::{self, Backends};
use crate::log_access::copies::{self, Copier};
use crate::log_access::inbox;
use crate::progress::ProgressView;

/// How long what is in hand may take after the first signal.
const GRACE: Duration = Duration::from_secs(8);
const GO_ON: &str = "run the same command again to go on";

/// A run that came to its end, with the log that holds it.
pub(crate) struct Run {
    pub(crate) ending: Ending,
    pub(crate) experiment: ExperimentId,
    pub(crate) log: Arc<dyn EventLog>,
}

/// Runs an experiment, or goes on with it, until it is finished or waits for people; with `waits`, it is
/// people that it waits for, and their judgements come through the inbox. One that is paused or cancelled is
/// left as it is.
///
/// # Errors
/// If configuration, data or models cannot be used, a step fails, or the user interrupts.
pub(crate) fn run_experiment(
    config: &Config,
    data_dir: &Path,
    waits: bool,
    view: &ProgressView,
) -> anyhow::Result<Run> {
    let held = Arc::new(copies::to_write(&data_dir.join("log"))?);
    let _copier = Copier::start(held.clone(), data_dir)?;
    let log: Arc<dyn EventLog> = held;
    let artifacts = config.artifacts.open(data_dir)?;
    view.say("opening the models");
    let models = Models::open(config)?;
    let planned = plan::plan(config, &models, &artifacts)?;
    refuse_another_plan(&*log, &planned.plan)?;
    let experiment = planned.plan.experiment.clone();
    if is_finished(&*log, &planned.plan)? {
        return Ok(Run { ending: Ending::Finished, experiment, log });
    }
    let run = |ending| Run { ending, experiment: experiment.clone(), log: log.clone() };
    let snapshots = Snapshots::new(start::snapshots_folder(data_dir));
    match standing(&*log, &experiment, &snapshots)? {
        ExperimentStatus::Paused => return Ok(run(Ending::Paused)),
        ExperimentStatus::Cancelled => return Ok(run(Ending::Cancelled)),
        ExperimentStatus::Created => start(&*log, &experiment)?,
        ExperimentStatus::Running | ExperimentStatus::Finished => {}
    }
    view.say("starting the policy and the proxy reward model");
    let broker = Arc::new(EmbeddedBroker::new(log.clone(), EmbeddedOptions::default()));
    let inbox = waits.then(|| inbox::folder(data_dir, &experiment));
    let lease = LeaseTimes::default();
    let snapshots = Some(snapshots);
    let backends = Backends { log: log.clone(), broker, artifacts, snapshots, inbox, lease, shared: false };
    let plan = planned.plan.clone();
    let resources = start::open(config, &models, planned, Roles::all(), backends)?;
    let ending = actix::System::new().block_on(drive(&plan, resources, view))?;
    Ok(Run { ending, experiment, log })
}

/// Whether an experiment may go on, as far as operators are concerned.
fn standing(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    snapshots: &Snapshots,
) -> anyhow::Result<ExperimentStatus> {
    let states = States::default();
    states.load(log, experiment, Some(snapshots))?;
    Ok(states.standing(experiment))
}

/// Whoever runs what was created wants it to start.
fn start(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<()> {
    let order =
        OperatorCommand { action: Action::Start, by: String::new(), reason: Some("dissent run".to_owned()) };
    wait(command_in_log(log, experiment, &order))?;
    Ok(())
}

/// Whether the experiment did all its rounds, or decided to go no further.
fn is_finished(log: &dyn EventLog, plan: &Plan) -> anyhow::Result<bool> {
    for rounds in 1..=plan.rounds {
        if log.find(finished_id(plan, rounds))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Runs the pipeline until the experiment is finished, waits for people, fails, or is interrupted; always
/// drains.
async fn drive(plan: &Plan, resources: Resources, view: &ProgressView) -> anyhow::Result<Ending> {
    let mut pipeline = Pipeline::start(plan, resources).await?;
    let cancel = pipeline.cancel_handle();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let showing = actix::spawn(view.follow(pipeline.progress(), pipeline.meter()));
    let outcome: Result<Ending, anyhow::Error> = tokio::select! {
        finished = pipeline.finished() => finished.map_err(Into::into),
        _ = interrupt.recv() => Err(Interrupted(GO_ON).into()),
        _ = terminate.recv() => Err(Interrupted(GO_ON).into()),
    };
    showing.abort();
    if outcome.is_err() {
        view.say("stopping: finishing what is in hand (press Ctrl-C again to give it up)");
        let failed =
            matches!(outcome.as_ref().map_err(|e| e.downcast_ref()), Err(Some(PipelineError::Failed(_))));
        actix::spawn(give_up(cancel, interrupt, if failed { Duration::ZERO } else { GRACE }));
    }
    let drained = pipeline.drain().await;
    let ending = outcome?;
    drained?;
    Ok(ending)
}

/// Gives up what is being computed on a second Ctrl-C, or when the grace is over.
async fn give_up(cancel: CancelFlag, mut interrupt: Signal, grace: Duration) {
    let _ = tokio::time::timeout(grace, interrupt.recv()).await;
    cancel.cancel();
}
