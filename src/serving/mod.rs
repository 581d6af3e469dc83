//! Runs an experiment as a service: the server, which writes the history, and the workers, which share its
//! steps.

pub(crate) mod accept;
mod access;
mod broker_handle;
mod control;
pub(crate) mod control_token;
mod http;
mod metrics;
mod plan_checked_history;
pub(crate) mod problem;
pub(crate) mod request_id;
mod status;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dissent_actors::{Ending, Pipeline, ProcessHealth, Progress, Roles, Worker};
use dissent_domain::log::EventLog;
use dissent_domain::operator::ExperimentStatus;
use dissent_models::runtime::CancelFlag;
use dissent_queues::RabbitBroker;
use dissent_storage::{ArtifactStore, MemoryLog, Snapshots};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{BrokerConfig, Config};
use crate::error::BadInput;
use crate::experiment::bundle;
use crate::experiment::kept_settings::KeptSettings;
use crate::experiment::models::Models;
use crate::experiment::plan;
use crate::experiment::plan_fork::check_or_suggest;
use crate::experiment::start::{self, Backends};
use crate::log_access::door::LocalDoor;
use crate::log_access::{inbox, open};
use crate::serving::control_token::ControlToken;
use access::AccessCheck;
use broker_handle::BrokerHandle;
use control::ControlApi;
use plan_checked_history::PlanCheckedHistory;
use status::ServiceStatus;

/// Longest time for work in progress to end after a signal.
const GRACE: Duration = Duration::from_secs(20);
/// Shortest interval of notifications to systemd's watchdog.
const WATCHDOG_MIN: Duration = Duration::from_millis(10);

/// Options of a server or a worker.
#[derive(Debug, Clone)]
pub(crate) struct ServeOptions {
    /// The steps to run.
    pub(crate) roles: Roles,
    /// Address of the HTTP interface, if any.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether the process exits when the experiment is finished, instead of waiting for a signal.
    pub(crate) until_finished: bool,
}

/// Writes the history of an experiment, and runs the steps of its roles, until a signal stops the process.
///
/// # Errors
/// If the configuration, data or models cannot be used, a step fails, or RabbitMQ refuses an operation.
pub(crate) fn serve(
    config: &Config,
    config_path: &Path,
    data_dir: &Path,
    serving: &ServeOptions,
    token: Option<&ControlToken>,
) -> anyhow::Result<()> {
    let sled_log = Arc::new(open::open_for_writing(data_dir)?);
    let door = LocalDoor::start(sled_log.clone(), data_dir, axum::Router::new())?;
    let log: Arc<dyn EventLog> = sled_log.clone();
    let artifacts = config.artifacts.open(data_dir)?;
    let kept = KeptSettings::of_experiment(&*log, &config.experiment.name)?;
    let models = Models::open(config, kept.reading)?;
    let planned = plan::plan(config, &models, &artifacts, &kept)?;
    check_or_suggest(&*log, &planned.plan)?;
    bundle::publish(config_path, &artifacts)?;
    let plan = planned.plan.clone();
    actix::System::new().block_on(async {
        let broker = BrokerHandle::of_server(&config.broker, log.clone()).await?;
        broker.prepare(&plan, config.generation.batch_prompts).await?;
        let inbox = Some(inbox::folder(data_dir, &plan.experiment));
        let (lease, shared) = (config.broker.lease(), config.broker.is_shared());
        let snapshots = Some(Snapshots::new(start::snapshots_folder(data_dir)));
        let backends = Backends { log, broker: broker.broker(), artifacts, snapshots, inbox, lease, shared };
        let resources = start::open(config, &models, planned, serving.roles.clone(), backends)?;
        let mut pipeline = Pipeline::start(&plan, resources).await?;
        let control_api = serving.listen.map(|listen| ControlApi {
            control: pipeline.control(),
            log: sled_log,
            data_dir: data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned()),
            access: AccessCheck::new(listen, token),
            backup_lock: Arc::default(),
        });
        if let Some(control_api) = &control_api {
            door.set_more(control::routes(Arc::new(control_api.of_unix_socket())));
        }
        let served = RunningService::begin(pipeline.health(), broker.clone(), serving, control_api).await?;
        let (cancel, failure) =
            (pipeline.cancel_handle(), async { pipeline.finished().await.map(|_: Ending| ()) });
        let outcome = served.until_stopped(failure, cancel).await;
        let progress = pipeline.progress();
        let drained = pipeline.drain().await;
        outcome.and(drained.map_err(anyhow::Error::from))?;
        if must_delete_queues(&progress.borrow(), serving.until_finished) {
            broker.delete_queues(&plan.experiment).await;
        }
        Ok(())
    })
}

/// Whether a server that stops deletes the queues of its experiment. With `until_finished` it stops at the
/// end of the experiment, when workers may not have received the last events.
fn must_delete_queues(progress: &Progress, until_finished: bool) -> bool {
    progress.is_over() && !until_finished
}

/// Runs the steps of its roles for an experiment whose history a server writes.
///
/// # Errors
/// If the configuration, data or models cannot be used, a step fails, or RabbitMQ refuses an operation.
pub(crate) fn work(config: &Config, artifacts: ArtifactStore, serving: &ServeOptions) -> anyhow::Result<()> {
    let BrokerConfig::Rabbitmq(rabbit) = &config.broker else {
        let reason =
            "a worker cannot use the embedded broker: set [broker] kind = \"rabbitmq\" for server and worker";
        return Err(BadInput(reason.to_owned()).into());
    };
    let options = rabbit.options_of_service()?;
    actix::System::new().block_on(async {
        let broker = RabbitBroker::connect_worker(options).await.context("failed to reach RabbitMQ")?;
        let mut history = PlanCheckedHistory::new(broker.history(&config.experiment.name).await?);
        let kept = history.kept_settings().await?;
        let models = Models::open(config, kept.reading)?;
        let planned = plan::plan(config, &models, &artifacts, &kept)?;
        let plan = planned.plan.clone();
        let (log, lease) = (Arc::new(MemoryLog::new()), config.broker.lease());
        let backends = Backends {
            log,
            broker: broker.clone(),
            artifacts,
            snapshots: None,
            inbox: None,
            lease,
            shared: true,
        };
        let resources = start::open(config, &models, planned, serving.roles.clone(), backends)?;
        history.expect(plan.clone());
        let mut worker = Worker::start(&plan, resources, Box::new(history))?;
        let served =
            RunningService::begin(worker.health(), BrokerHandle::Rabbit(broker), serving, None).await?;
        let cancel = worker.cancel_handle();
        let outcome = served.until_stopped(async { worker.finished().await }, cancel).await;
        let drained = worker.drain().await;
        outcome.and(drained.map_err(Into::into))
    })
}

/// A process that serves its HTTP interface and waits for signals.
struct RunningService {
    status: Arc<ServiceStatus>,
    until_finished: bool,
}

impl RunningService {
    async fn begin(
        health: ProcessHealth,
        broker: BrokerHandle,
        serving: &ServeOptions,
        control_api: Option<ControlApi>,
    ) -> anyhow::Result<Self> {
        log_waiting_state(&health);
        let status = Arc::new(ServiceStatus::new(health, broker));
        if let Some(address) = serving.listen {
            let address = http::listen(address, status.clone(), control_api).await?;
            tracing::info!(%address, "listening");
        }
        notify(&[NotifyState::Ready]);
        if let Some(timeout) = sd_notify::watchdog_enabled() {
            actix::spawn(notify_watchdog(timeout));
        }
        tracing::info!(roles = %serving.roles, "running steps");
        Ok(Self { status, until_finished: serving.until_finished })
    }

    /// Waits for a signal, for a failure, or with `until_finished` for the end of the experiment.
    async fn until_stopped(
        &self,
        finished: impl Future<Output = Result<(), dissent_actors::PipelineError>>,
        cancel: CancelFlag,
    ) -> anyhow::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let ended = async {
            finished.await?;
            let status = self.status.health.progress.borrow().status;
            tracing::info!(?status, "experiment ended");
            if !self.until_finished {
                std::future::pending::<()>().await;
            }
            anyhow::Ok(())
        };
        let outcome = tokio::select! {
            ended = ended => ended,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
        self.status.start_draining();
        notify(&[NotifyState::Stopping]);
        tracing::info!("finishing work in progress before the stop");
        let grace = if outcome.is_ok() { GRACE } else { Duration::ZERO };
        actix::spawn(async move {
            let _ = tokio::time::timeout(grace, interrupt.recv()).await;
            cancel.cancel();
        });
        outcome
    }
}

/// Logs the state of an experiment in which no step runs.
fn log_waiting_state(health: &ProcessHealth) {
    match health.progress.borrow().status {
        ExperimentStatus::Created => {
            tracing::warn!("waiting for the start of the experiment: use `dissent experiment start NAME`");
        }
        ExperimentStatus::Paused => {
            tracing::warn!("waiting while the experiment is paused: use `dissent experiment resume NAME`");
        }
        ExperimentStatus::Cancelled => tracing::warn!("not running steps: the experiment is cancelled"),
        ExperimentStatus::Running | ExperimentStatus::Finished => {}
    }
}

/// Notifies systemd's watchdog, twice in each timeout. The task stops if the process handles no events.
async fn notify_watchdog(timeout: Duration) {
    let mut ticks = tokio::time::interval((timeout / 2).max(WATCHDOG_MIN));
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Notifies systemd, if the process runs under it.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "failed to notify systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_server_deletes_the_queues_of_an_ended_experiment() {
        for (status, is_over) in [
            (ExperimentStatus::Running, false),
            (ExperimentStatus::Created, false),
            (ExperimentStatus::Paused, false),
            (ExperimentStatus::Cancelled, true),
            (ExperimentStatus::Finished, true),
        ] {
            let progress = Progress { status, ..Progress::default() };
            assert_eq!(must_delete_queues(&progress, false), is_over, "{status:?}");
            assert!(!must_delete_queues(&progress, true), "{status:?}: workers may still read the history");
        }
    }
}
