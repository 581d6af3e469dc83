//! Running an experiment as a service: the process that writes history, and workers that share its steps.

mod accept;
mod access;
mod broker_handle;
mod control;
pub(crate) mod control_token;
mod http;
mod metrics;
mod plan_checked_history;
mod problem;
mod request_id;
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
use crate::experiment::models::Models;
use crate::experiment::plan;
use crate::experiment::plan_check::check_recorded_plan;
use crate::experiment::start::{self, Backends};
use crate::log_access::copies::{self, Copier};
use crate::log_access::inbox;
use crate::serving::control_token::ControlToken;
use access::AccessCheck;
use broker_handle::BrokerHandle;
use control::ControlApi;
use plan_checked_history::PlanCheckedHistory;
use status::ServiceStatus;

/// How long what is in hand may take after a signal.
const GRACE: Duration = Duration::from_secs(20);
/// Least time between two words to systemd's watchdog.
const WATCHDOG_MIN: Duration = Duration::from_millis(10);

/// How a process takes part.
#[derive(Debug, Clone)]
pub(crate) struct ServeOptions {
    /// The steps it does.
    pub(crate) roles: Roles,
    /// Where it answers for its health.
    pub(crate) listen: Option<SocketAddr>,
    /// End when the experiment is finished, instead of waiting for a signal.
    pub(crate) until_finished: bool,
}

/// Writes the history of an experiment, and does the steps of its roles, until it is asked to stop.
///
/// # Errors
/// If configuration, data or models cannot be used, a step fails, or RabbitMQ refuses.
pub(crate) fn serve(
    config: &Config,
    config_path: &Path,
    data_dir: &Path,
    serving: &ServeOptions,
    token: Option<&ControlToken>,
) -> anyhow::Result<()> {
    let held = Arc::new(copies::open_for_writing(&data_dir.join("log"))?);
    let _copier = Copier::start(held.clone(), data_dir)?;
    let log: Arc<dyn EventLog> = held.clone();
    let artifacts = config.artifacts.open(data_dir)?;
    let models = Models::open(config)?;
    let planned = plan::plan(config, &models, &artifacts)?;
    check_recorded_plan(&*log, &planned.plan)?;
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
            log: held,
            data_dir: data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned()),
            access: AccessCheck::new(listen, token),
            backing_up: Arc::default(),
        });
        let served = RunningService::begin(pipeline.health(), broker.clone(), serving, control_api).await?;
        let (cancel, failure) =
            (pipeline.cancel_handle(), async { pipeline.finished().await.map(|_: Ending| ()) });
        let outcome = served.until_stopped(failure, cancel).await;
        let progress = pipeline.progress();
        let drained = pipeline.drain().await;
        outcome.and(drained.map_err(anyhow::Error::from))?;
        if takes_queues_along(&progress.borrow(), serving.until_finished) {
            broker.forget(&plan.experiment).await;
        }
        Ok(())
    })
}

/// Whether the queues of an experiment go with the server. One that ends by itself ends with the experiment:
/// workers may be yet to hear of it, or to come.
fn takes_queues_along(progress: &Progress, until_finished: bool) -> bool {
    progress.is_over() && !until_finished
}

/// Does the steps of its roles for an experiment whose history another process writes.
///
/// # Errors
/// If configuration, data or models cannot be used, a step fails, or RabbitMQ refuses.
pub(crate) fn work(config: &Config, artifacts: ArtifactStore, serving: &ServeOptions) -> anyhow::Result<()> {
    let BrokerConfig::Rabbitmq(rabbit) = &config.broker else {
        let reason =
            "a worker needs a RabbitMQ that it shares with the server: set [broker] kind = \"rabbitmq\"";
        return Err(BadInput(reason.to_owned()).into());
    };
    let models = Models::open(config)?;
    let planned = plan::plan(config, &models, &artifacts)?;
    let plan = planned.plan.clone();
    let options = rabbit.options_of_service()?;
    actix::System::new().block_on(async {
        let broker = RabbitBroker::connect_worker(options).await.context("failed to reach RabbitMQ")?;
        let history = broker.history(&plan.experiment).await?;
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
        let history = PlanCheckedHistory::new(history, plan.clone());
        let mut worker = Worker::start(&plan, resources, Box::new(history))?;
        let served =
            RunningService::begin(worker.health(), BrokerHandle::Rabbit(broker), serving, None).await?;
        let cancel = worker.cancel_handle();
        let outcome = served.until_stopped(async { worker.finished().await }, cancel).await;
        let drained = worker.drain().await;
        outcome.and(drained.map_err(Into::into))
    })
}

/// A process that answers for its health and listens for signals.
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
        tell_what_it_waits_for(&health);
        let status = Arc::new(ServiceStatus::new(health, broker));
        if let Some(address) = serving.listen {
            let address = http::listen(address, status.clone(), control_api).await?;
            tracing::info!(%address, "listening");
        }
        notify(&[NotifyState::Ready]);
        if let Some(patience) = sd_notify::watchdog_enabled() {
            actix::spawn(tell_watchdog(patience));
        }
        tracing::info!(roles = %serving.roles, "at work");
        Ok(Self { status, until_finished: serving.until_finished })
    }

    /// Waits for a signal, for a failure, or, where that is the end, until the experiment is finished.
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
            tracing::info!(?status, "the experiment is over");
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
        self.status.drains();
        notify(&[NotifyState::Stopping]);
        tracing::info!("stopping: finishing what is in hand");
        let grace = if outcome.is_ok() { GRACE } else { Duration::ZERO };
        actix::spawn(async move {
            let _ = tokio::time::timeout(grace, interrupt.recv()).await;
            cancel.cancel();
        });
        outcome
    }
}

/// Says why nothing happens, where nothing may.
fn tell_what_it_waits_for(health: &ProcessHealth) {
    match health.progress.borrow().status {
        ExperimentStatus::Created => {
            tracing::warn!("the experiment waits for its start: dissent experiment start NAME")
        }
        ExperimentStatus::Paused => {
            tracing::warn!("the experiment is paused: dissent experiment resume NAME")
        }
        ExperimentStatus::Cancelled => tracing::warn!("the experiment was cancelled: nothing is done"),
        ExperimentStatus::Running | ExperimentStatus::Finished => {}
    }
}

/// Tells systemd's watchdog that events are still handled, twice as often as it wants to know.
async fn tell_watchdog(patience: Duration) {
    let mut ticks = tokio::time::interval((patience / 2).max(WATCHDOG_MIN));
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Tells systemd, where it wants to know.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "failed to notify systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_stopped_takes_the_queues_of_what_is_over_along() {
        for (status, is_over) in [
            (ExperimentStatus::Running, false),
            (ExperimentStatus::Created, false),
            (ExperimentStatus::Paused, false),
            (ExperimentStatus::Cancelled, true),
            (ExperimentStatus::Finished, true),
        ] {
            let progress = Progress { status, ..Progress::default() };
            assert_eq!(takes_queues_along(&progress, false), is_over, "{status:?}");
            assert!(!takes_queues_along(&progress, true), "{status:?}: workers may be yet to hear of it");
        }
    }
}
