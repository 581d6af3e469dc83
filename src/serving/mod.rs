//! Running an experiment as a service: the process that writes history, and workers that share its steps.

mod carrier;
mod http;
mod metrics;
mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dissent_actors::{Ending, Pipeline, Roles, Vitals, Worker};
use dissent_domain::event::Recorded;
use dissent_domain::experiment::Plan;
use dissent_domain::log::EventLog;
use dissent_models::runtime::CancelFlag;
use dissent_queues::{BoxFuture, HistoryConsumer, RabbitBroker};
use dissent_storage::{ArtifactStore, MemoryLog, SledLog, SledOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::BadInput;
use crate::config::{BrokerConfig, Config};
use crate::inbox;
use crate::opening::{self, Places};
use crate::planning::{self, Models};
use crate::running::{refuse_another_plan, refuse_begun_otherwise};
use carrier::Carrier;
use watch::Watched;

/// How long what is in hand may take after a signal.
const GRACE: Duration = Duration::from_secs(20);

/// How a process takes part.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    /// The steps it does.
    pub(crate) roles: Roles,
    /// Where it answers for its health.
    pub(crate) listen: Option<SocketAddr>,
    /// End when the experiment is finished, instead of waiting for a signal.
    pub(crate) until_finished: bool,
}

/// Writes the history of an experiment, and does the steps of its roles, until it is told to stop.
///
/// # Errors
/// If configuration, data or models cannot be used, a step fails, or RabbitMQ refuses.
pub(crate) fn serve(config: &Config, data_dir: &Path, serving: &Serving) -> anyhow::Result<()> {
    let log: Arc<dyn EventLog> = Arc::new(SledLog::open(data_dir.join("log"), &SledOptions::default())?);
    let artifacts = ArtifactStore::open(data_dir.join("artifacts"))?;
    let models = Models::open(config)?;
    let planned = planning::plan(config, &models, &artifacts)?;
    refuse_another_plan(&*log, &planned.plan)?;
    let plan = planned.plan.clone();
    actix::System::new().block_on(async {
        let carrier = Carrier::of_server(&config.broker, log.clone()).await?;
        carrier.prepare(&plan, config.generation.batch_prompts).await?;
        let inbox = Some(inbox::folder(data_dir, &plan.experiment));
        let (lease, shared) = (config.broker.lease(), config.broker.is_shared());
        let places = Places { log, broker: carrier.broker(), artifacts, inbox, lease, shared };
        let resources = opening::open(config, &models, planned, serving.roles.clone(), places)?;
        let mut pipeline = Pipeline::start(&plan, resources).await?;
        let served = Served::begin(pipeline.vitals(), carrier, serving).await?;
        let (cancel, failure) =
            (pipeline.cancel_handle(), async { pipeline.finished().await.map(|_: Ending| ()) });
        let outcome = served.until_stopped(failure, cancel).await;
        let drained = pipeline.drain().await;
        outcome.and(drained.map_err(Into::into))
    })
}

/// Does the steps of its roles for an experiment whose history another process writes.
///
/// # Errors
/// If configuration, data or models cannot be used, a step fails, or RabbitMQ refuses.
pub(crate) fn work(config: &Config, data_dir: &Path, serving: &Serving) -> anyhow::Result<()> {
    let BrokerConfig::Rabbitmq(rabbit) = &config.broker else {
        let reason =
            "a worker needs a RabbitMQ that it shares with the server: set [broker] kind = \"rabbitmq\"";
        return Err(BadInput(reason.to_owned()).into());
    };
    let artifacts = ArtifactStore::open(data_dir.join("artifacts"))?;
    let models = Models::open(config)?;
    let planned = planning::plan(config, &models, &artifacts)?;
    let plan = planned.plan.clone();
    let options = rabbit.options()?;
    actix::System::new().block_on(async {
        let broker = RabbitBroker::connect_worker(options).await.context("failed to reach RabbitMQ")?;
        let history = broker.history(&plan.experiment).await?;
        let (log, lease) = (Arc::new(MemoryLog::new()), config.broker.lease());
        let places = Places { log, broker: broker.clone(), artifacts, inbox: None, lease, shared: true };
        let resources = opening::open(config, &models, planned, serving.roles.clone(), places)?;
        let told = Told { history, plan: plan.clone() };
        let mut worker = Worker::start(&plan, resources, Box::new(told))?;
        let served = Served::begin(worker.vitals(), Carrier::Rabbit(broker), serving).await?;
        let cancel = worker.cancel_handle();
        let outcome = served.until_stopped(async { worker.finished().await }, cancel).await;
        let drained = worker.drain().await;
        outcome.and(drained.map_err(Into::into))
    })
}

/// The history that a worker is told, which must be that of the plan it works on.
struct Told {
    history: HistoryConsumer,
    plan: Plan,
}

impl dissent_actors::History for Told {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Recorded>, String>> {
        Box::pin(async {
            let recorded = self.history.next().await.map_err(|error| error.to_string())?;
            if let Some(first) = recorded.as_ref().filter(|recorded| recorded.version == 1) {
                refuse_begun_otherwise(first, &self.plan).map_err(|error| format!("{error:#}"))?;
            }
            Ok(recorded)
        })
    }
}

/// A process that answers for its health and listens for signals.
struct Served {
    watched: Arc<Watched>,
    until_finished: bool,
}

impl Served {
    async fn begin(vitals: Vitals, carrier: Carrier, serving: &Serving) -> anyhow::Result<Self> {
        let watched = Arc::new(Watched::new(vitals, carrier));
        if let Some(address) = serving.listen {
            let address = http::listen(address, watched.clone()).await?;
            tracing::info!(%address, "listening");
        }
        notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(roles = %serving.roles, "at work");
        Ok(Self { watched, until_finished: serving.until_finished })
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
            tracing::info!("the experiment is finished");
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
        self.watched.drains();
        notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!("stopping: finishing what is in hand");
        let grace = if outcome.is_ok() { GRACE } else { Duration::ZERO };
        actix::spawn(async move {
            let _ = tokio::time::timeout(grace, interrupt.recv()).await;
            cancel.cancel();
        });
        outcome
    }
}

/// Tells systemd, where it wants to know.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "failed to notify systemd");
    }
}
