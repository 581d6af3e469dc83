//! Running an experiment in this process, until it finishes or waits for people.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dissent_actors::{
    Control, Ending, LeaseTimes, ModelCache, Pipeline, PipelineError, Resources, Roles, States,
    command_in_log,
};
use dissent_domain::event_ids::finished_id;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::operator::{Action, ExperimentStatus, OperatorCommand};
use dissent_domain::plan::Plan;
use dissent_models::runtime::CancelFlag;
use dissent_queues::{EmbeddedBroker, EmbeddedOptions};
use dissent_storage::{Snapshots, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::kept_config::KeptConfigs;
use super::kept_settings::KeptSettings;
use super::plan_fork::check_or_suggest;
use crate::config::{Config, ConfigSource};
use crate::error::Interrupted;
use crate::experiment::models::Models;
use crate::experiment::plan;
use crate::experiment::start::{self, Backends};
use crate::log_access::door::LocalDoor;
use crate::log_access::{inbox, open};
use crate::progress::ProgressView;
use crate::serving::api;
use crate::serving::api::service::{Api, Service};
use crate::serving::status::ServiceStatus;

/// Time for work in progress to finish after the first signal.
const GRACE: Duration = Duration::from_secs(8);
const CONTINUE_HINT: &str = "run the same command again to continue";

/// A run after its end, with its log.
pub(crate) struct Run {
    pub(crate) ending: Ending,
    pub(crate) experiment: ExperimentId,
    pub(crate) log: Arc<dyn EventLog>,
}

/// Starts or continues an experiment, and runs it until it finishes or waits for people. With
/// `waits_for_people`, the run continues and takes judgements through the local socket. A paused or cancelled
/// experiment is not run.
///
/// # Errors
/// If configuration, data or models are unusable, a step fails, or the user interrupts.
pub(crate) fn run_experiment(
    config: &Config,
    source: &ConfigSource,
    data_dir: &Path,
    waits_for_people: bool,
    view: &ProgressView,
) -> anyhow::Result<Run> {
    let owned = Arc::new(open::open_for_writing(data_dir)?);
    let api = Api::of(data_dir);
    let _door = LocalDoor::start(owned.clone(), data_dir, api::local_routes(&api))?;
    let log: Arc<dyn EventLog> = owned.clone();
    let artifacts = config.artifacts.open(data_dir)?;
    view.print_line("opening the models");
    let kept = KeptSettings::of_experiment(&*log, &config.experiment.name)?;
    let models = Models::open(config, kept.reading)?;
    let planned = plan::plan(config, &models, &artifacts, &kept)?;
    check_or_suggest(&*log, &planned.plan)?;
    let experiment = planned.plan.experiment.clone();
    KeptConfigs::of(data_dir).keep(&experiment, source)?;
    if is_finished(&*log, &planned.plan)? {
        return Ok(Run { ending: Ending::Finished, experiment, log });
    }
    let run = |ending| Run { ending, experiment: experiment.clone(), log: log.clone() };
    let snapshots = Snapshots::new(start::snapshots_folder(data_dir));
    match status(&*log, &experiment, &snapshots)? {
        ExperimentStatus::Paused => return Ok(run(Ending::Paused)),
        ExperimentStatus::Cancelled => return Ok(run(Ending::Cancelled)),
        ExperimentStatus::Created => start(&*log, &experiment)?,
        ExperimentStatus::Running | ExperimentStatus::Finished => {}
    }
    view.print_line("starting the policy and the proxy reward model");
    let broker = Arc::new(EmbeddedBroker::new(log.clone(), EmbeddedOptions::default()));
    let cache = ModelCache::default();
    let service_artifacts = artifacts.clone();
    let backends = Backends {
        log: log.clone(),
        broker,
        artifacts,
        snapshots: Some(snapshots),
        waits_for_people,
        lease: LeaseTimes::default(),
        shared: false,
        cache: cache.clone(),
        loads_models: true,
    };
    let plan = planned.plan.clone();
    let resources = start::open(config, &models, planned, Roles::all(), backends)?;
    let begin = |control| {
        let status = Arc::new(ServiceStatus::new(cache));
        let log = owned.clone();
        let (artifacts, names) = (service_artifacts, Arc::default());
        api.begin(Service { control, log, artifacts, status, orders: None, entry: None, names });
    };
    let ending = actix::System::new().block_on(drive(&plan, resources, data_dir, view, begin))?;
    Ok(Run { ending, experiment, log })
}

/// Returns the status of an experiment after all operator commands.
fn status(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    snapshots: &Snapshots,
) -> anyhow::Result<ExperimentStatus> {
    let states = States::default();
    states.load(log, experiment, Some(snapshots))?;
    Ok(states.status(experiment))
}

/// Starts a created experiment: `dissent run` implies the start command.
fn start(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<()> {
    let command =
        OperatorCommand { action: Action::Start, by: String::new(), reason: Some("dissent run".to_owned()) };
    wait(command_in_log(log, experiment, &command))?;
    Ok(())
}

/// Returns whether the experiment has finished, after all rounds or fewer.
fn is_finished(log: &dyn EventLog, plan: &Plan) -> anyhow::Result<bool> {
    for rounds in 1..=plan.rounds {
        if log.find(finished_id(plan, rounds))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Runs the pipeline until the experiment finishes, waits for people, fails or is interrupted. The pipeline
/// is drained in every case.
async fn drive(
    plan: &Plan,
    resources: Resources,
    data_dir: &Path,
    view: &ProgressView,
    begin: impl FnOnce(Control),
) -> anyhow::Result<Ending> {
    let mut pipeline = Pipeline::start(plan, resources).await?;
    begin(pipeline.control());
    inbox::take_in(data_dir, &plan.experiment, &pipeline.control()).await;
    let cancel = pipeline.cancel_handle();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let display = actix::spawn(view.follow(pipeline.progress(), pipeline.meter()));
    let outcome: Result<Ending, anyhow::Error> = tokio::select! {
        finished = pipeline.finished() => finished.map_err(Into::into),
        _ = interrupt.recv() => Err(Interrupted(CONTINUE_HINT).into()),
        _ = terminate.recv() => Err(Interrupted(CONTINUE_HINT).into()),
    };
    display.abort();
    if outcome.is_err() {
        view.print_line("stopping after the work in progress (press Ctrl-C again to abandon it)");
        let failed =
            matches!(outcome.as_ref().map_err(|e| e.downcast_ref()), Err(Some(PipelineError::Failed(_))));
        actix::spawn(cancel_after(cancel, interrupt, if failed { Duration::ZERO } else { GRACE }));
    }
    let drained = pipeline.drain().await;
    let ending = outcome?;
    drained?;
    Ok(ending)
}

/// Cancels running computations on a second Ctrl-C or after `grace`.
async fn cancel_after(cancel: CancelFlag, mut interrupt: Signal, grace: Duration) {
    let _ = tokio::time::timeout(grace, interrupt.recv()).await;
    cancel.cancel();
}
