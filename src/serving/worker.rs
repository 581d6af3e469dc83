//! A worker: the steps of some roles, for one experiment or for every experiment of its server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use dissent_actors::{ModelCache, Roles, Turns, Worker};
use dissent_domain::id::ExperimentId;
use dissent_models::runtime::CancelFlag;
use dissent_queues::{Broker as _, RabbitBroker};
use dissent_storage::{ArtifactStore, MemoryLog};
use tokio::sync::mpsc;

use super::broker_handle::BrokerHandle;
use super::gate::Gate;
use super::http;
use super::plan_checked_history::PlanCheckedHistory;
use super::signals::{GRACE, Received, Signals};
use super::status::{Hosting, ServiceStatus};
use super::systemd;
use super::worker_directory::{self, ServerEntry};
use crate::client::Server;
use crate::config::{BrokerConfig, Config, ConfigSource, WorkerConfig};
use crate::error::BadInput;
use crate::experiment::bundle;
use crate::experiment::models::Models;
use crate::experiment::plan;
use crate::experiment::start::{self, Backends};
use crate::installation::Installation;
use crate::socket_path::SOCKET;

/// Interval at which a worker looks for experiments.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Looks after which the wait for a server is logged again.
const LOOKS_PER_WARNING: u32 = 30;

/// Options of a worker.
pub(crate) struct WorkerOptions {
    /// The steps to run.
    pub(crate) roles: Roles,
    /// Address of the HTTP interface, if any.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether the process exits when its experiments have ended.
    pub(crate) until_finished: bool,
    /// The server, if one is named.
    pub(crate) server: Option<Server>,
}

/// The source of the configurations of experiments.
pub(crate) enum Source {
    /// One experiment, whose configuration is a file of this host.
    File(Box<Config>),
    /// The shared store, or the server.
    Server,
}

/// The settings of a worker.
pub(crate) struct Settings {
    pub(crate) worker: WorkerConfig,
    pub(crate) source: Source,
    pub(crate) data_dir: PathBuf,
    pub(crate) artifacts: ArtifactStore,
}

impl Settings {
    /// Returns the server of the data folder, for a worker that can find its experiments only there.
    fn server_of_data_folder(&self) -> Option<Server> {
        let knows_experiments = self.worker.experiment.is_some() || self.artifacts.shared().is_some();
        let has_server = || Installation::find(&self.data_dir).is_ok_and(|found| found.is_some());
        (!knows_experiments && has_server()).then(|| Server::at_door(self.data_dir.join(SOCKET)))
    }
}

/// Runs steps until a signal stops the process.
///
/// # Errors
/// If the settings cannot be used, a step of the only experiment fails, or RabbitMQ refuses an operation.
pub(crate) fn work(settings: Settings, options: WorkerOptions) -> anyhow::Result<()> {
    let cache = ModelCache::new(settings.worker.models.limits());
    let status = Arc::new(ServiceStatus::new(cache));
    let WorkerOptions { roles, listen, until_finished, server } = options;
    let only = settings.worker.experiment.as_ref().map(|experiment| experiment.name.clone());
    let server = server.or_else(|| settings.server_of_data_folder());
    let directory = Arc::new(Directory { settings, server, only });
    actix::System::new().block_on(async {
        let mut signals = Signals::new()?;
        if let Some(address) = listen {
            let gate = Gate::new(address, None);
            http::listen(address, status.clone(), gate, Router::new()).await?;
        }
        let starting = async {
            let prefix = directory.prefix(&status).await?;
            status.wait_for("waiting for RabbitMQ");
            let BrokerConfig::Rabbitmq(rabbit) = &directory.settings.worker.broker else {
                let reason = "a worker cannot use the embedded broker: set [broker] kind = \"rabbitmq\" for server and worker";
                return Err(BadInput(reason.to_owned()).into());
            };
            let connecting = RabbitBroker::connect_worker(rabbit.options_of_service(&prefix)?);
            let broker = connecting.await.context("failed to reach RabbitMQ")?;
            status.use_broker(BrokerHandle::Rabbit(broker.clone()));
            status.start_working();
            systemd::ready();
            tracing::info!(roles = %roles, prefix, "running steps");
            anyhow::Ok((broker, prefix))
        };
        let (broker, prefix) = tokio::select! {
            started = starting => started?,
            () = stop_signal(&mut signals) => return Ok(()),
        };
        let mut crew = Crew::new((roles, until_finished), directory, broker.clone(), prefix, status.clone());
        let outcome = tokio::select! {
            outcome = crew.run() => outcome,
            () = stop_signal(&mut signals) => Ok(()),
        };
        status.start_draining();
        systemd::stopping();
        tracing::info!("finishing work in progress before the stop");
        let over = signals.grace(if outcome.is_ok() { GRACE } else { Duration::ZERO });
        let flags = crew.cancel_flags();
        let abandoned = broker.clone();
        actix::spawn(async move {
            over.notified().await;
            flags.iter().for_each(CancelFlag::cancel);
            abandoned.abandon();
        });
        let drained = crew.drain().await;
        outcome.and(drained)
    })
}

async fn stop_signal(signals: &mut Signals) {
    while signals.next().await == Received::Reload {
        tracing::info!("keeping all settings: none can be reloaded");
    }
}

/// Where a worker finds its server and the experiments. Its methods block, unless they are asynchronous.
struct Directory {
    settings: Settings,
    server: Option<Server>,
    only: Option<ExperimentId>,
}

impl Directory {
    /// Returns the prefix of the names of the queues: the configured one, that of the server or of the shared
    /// store, or that of this data folder. Waits for a server to announce itself.
    async fn prefix(self: &Arc<Self>, status: &ServiceStatus) -> anyhow::Result<String> {
        if let BrokerConfig::Rabbitmq(rabbit) = &self.settings.worker.broker
            && let Some(prefix) = &rabbit.prefix
        {
            return Ok(prefix.clone());
        }
        for looks in 0_u32.. {
            let directory = self.clone();
            if let Some(entry) = blocking(move || directory.entry(None)).await? {
                return Ok(entry.prefix);
            }
            if self.server.is_none() && self.settings.artifacts.shared().is_none() {
                if let Some(installation) = Installation::find(&self.settings.data_dir)? {
                    return Ok(installation.prefix());
                }
                let reason = "the worker does not know its server: name it with --server, share a store with it ([artifacts] url), or \
                              set the same broker.prefix for both";
                return Err(BadInput(reason.to_owned()).into());
            }
            status.wait_for("waiting for the server");
            if looks.is_multiple_of(LOOKS_PER_WARNING) {
                tracing::warn!("waiting for the server: start `dissent serve` with the same artifacts.url");
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        anyhow::bail!("no server was found")
    }

    /// Returns the entry of the server now; `None` if it is not there yet.
    fn entry(&self, prefix: Option<&str>) -> anyhow::Result<Option<ServerEntry>> {
        match (&self.server, self.settings.artifacts.shared()) {
            (Some(server), _) => server.entry(),
            (None, Some(store)) => worker_directory::find(store, prefix),
            (None, None) => Ok(None),
        }
    }

    /// Returns the experiments to work on now; `None` while the server does not answer, for example during a
    /// restart.
    fn experiments(&self, prefix: &str) -> anyhow::Result<Option<BTreeSet<ExperimentId>>> {
        if let Some(only) = &self.only {
            return Ok(Some(BTreeSet::from([only.clone()])));
        }
        Ok(self.entry(Some(prefix))?.map(|entry| entry.experiments))
    }

    /// Returns the configuration of an experiment, with the settings of this host. Blocks.
    fn config(&self, prefix: &str, experiment: &ExperimentId) -> anyhow::Result<Config> {
        let Settings { worker, source, data_dir, artifacts } = &self.settings;
        if let Source::File(config) = source {
            return Ok((**config).clone());
        }
        if artifacts.shared().is_some() {
            return bundle::fetch(worker, prefix, experiment, data_dir, artifacts);
        }
        let server = self.server.as_ref().context("the worker knows neither a store nor a server")?;
        let source: ConfigSource = server.configuration(experiment)?;
        let mut config = source.load()?;
        let WorkerConfig { broker, artifacts, runtime, .. } = worker.clone();
        (config.broker, config.artifacts, config.runtime) = (broker, artifacts, runtime);
        Ok(config)
    }
}

/// Runs work that blocks on a thread where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread of the worker has failed")?
}

/// The experiments of a worker process.
struct Crew {
    roles: Roles,
    until_finished: bool,
    directory: Arc<Directory>,
    broker: Arc<RabbitBroker>,
    prefix: String,
    status: Arc<ServiceStatus>,
    turns: Turns,
    working: BTreeMap<ExperimentId, Worker>,
    /// Experiments that ended or failed here. They are not begun again.
    done: BTreeSet<ExperimentId>,
    ends: (mpsc::UnboundedSender<End>, mpsc::UnboundedReceiver<End>),
}

/// The end of an experiment in this process.
type End = (ExperimentId, Result<(), dissent_actors::PipelineError>);

impl Crew {
    fn new(
        (roles, until_finished): (Roles, bool),
        directory: Arc<Directory>,
        broker: Arc<RabbitBroker>,
        prefix: String,
        status: Arc<ServiceStatus>,
    ) -> Self {
        Self {
            roles,
            until_finished,
            directory,
            broker,
            prefix,
            status,
            turns: Turns::default(),
            working: BTreeMap::new(),
            done: BTreeSet::new(),
            // At most one end for each experiment.
            ends: mpsc::unbounded_channel(),
        }
    }

    /// Works on the experiments of the server, until the process must end.
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_trouble = None;
        loop {
            tokio::select! {
                Some((experiment, outcome)) = self.ends.1.recv() => {
                    self.end(&experiment, outcome).await?;
                    if self.until_finished && self.is_done() {
                        return Ok(());
                    }
                }
                _ = looks.tick() => {
                    self.status.cache.drop_idle();
                    let looked = self.look().await;
                    match looked {
                        Err(error) if self.directory.only.is_some() => return Err(error),
                        Err(error) => {
                            let trouble = format!("{error:#}");
                            // Log each new error once: an outage may last for hours.
                            if last_trouble.as_ref() != Some(&trouble) {
                                tracing::warn!(error = trouble, "failed to look for experiments, retrying");
                                last_trouble = Some(trouble);
                            }
                        }
                        Ok(()) => last_trouble = None,
                    }
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        self.working.is_empty() && !self.done.is_empty()
    }

    /// Begins experiments that the server hosts, and stops those that it no longer hosts.
    async fn look(&mut self) -> anyhow::Result<()> {
        let (directory, prefix) = (self.directory.clone(), self.prefix.clone());
        let Some(hosted) = blocking(move || directory.experiments(&prefix)).await? else { return Ok(()) };
        let dropped: Vec<ExperimentId> =
            self.working.keys().filter(|name| !hosted.contains(*name)).cloned().collect();
        for experiment in dropped {
            tracing::info!(experiment_id = %experiment, "leaving an experiment that the server no longer hosts");
            self.stop(&experiment).await;
        }
        self.done.retain(|name| self.directory.only.is_some() || hosted.contains(name));
        for experiment in hosted {
            if self.working.contains_key(&experiment) || self.done.contains(&experiment) {
                continue;
            }
            if let Err(error) = self.begin(&experiment).await {
                if self.directory.only.is_some() {
                    return Err(error);
                }
                tracing::error!(experiment_id = %experiment, error = format!("{error:#}"), "leaving an experiment to other workers");
                self.status.forget(&experiment);
                self.done.insert(experiment);
            }
        }
        Ok(())
    }

    async fn begin(&mut self, experiment: &ExperimentId) -> anyhow::Result<()> {
        self.status.note(experiment, Hosting::Loading);
        let worker = Box::pin(self.start(experiment)).await?;
        self.status.note(experiment, Hosting::Running(worker.health()));
        tracing::info!(experiment_id = %experiment, "working on experiment");
        let (mut end, ends, name) = (worker.end(), self.ends.0.clone(), experiment.clone());
        actix::spawn(async move {
            // The process may be stopping.
            let _stopped = ends.send((name, end.ended().await));
        });
        self.working.insert(experiment.clone(), worker);
        Ok(())
    }

    async fn start(&self, experiment: &ExperimentId) -> anyhow::Result<Worker> {
        let (directory, prefix, name) = (self.directory.clone(), self.prefix.clone(), experiment.clone());
        let config = blocking(move || directory.config(&prefix, &name)).await?;
        let mut history = PlanCheckedHistory::new(self.broker.history(experiment).await?);
        let kept = history.kept_settings().await?;
        let directory = self.directory.clone();
        let backends = Backends {
            log: Arc::new(MemoryLog::new()),
            broker: self.broker.clone(),
            artifacts: directory.settings.artifacts.clone(),
            snapshots: None,
            waits_for_people: true,
            lease: config.broker.lease(),
            shared: true,
            cache: self.status.cache.clone(),
            loads_models: directory.only.is_some(),
        };
        let roles = self.roles.clone();
        let opening = blocking(move || {
            let models = Models::open(&config, kept.reading)?;
            let planned = plan::plan(&config, &models, &backends.artifacts, &kept)?;
            let plan = planned.plan.clone();
            Ok((plan, start::open(&config, &models, planned, roles, backends)?))
        });
        let (plan, resources) = opening.await?;
        history.expect(plan.clone());
        Ok(Worker::start(&plan, resources, Box::new(history), self.turns.clone())?)
    }

    async fn end(
        &mut self,
        experiment: &ExperimentId,
        outcome: Result<(), dissent_actors::PipelineError>,
    ) -> anyhow::Result<()> {
        if !self.working.contains_key(experiment) {
            // It was left on purpose, and can come back.
            return Ok(());
        }
        if let Err(error) = outcome {
            if self.directory.only.is_some() {
                return Err(error.into());
            }
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(experiment_id = %experiment, error, "leaving an experiment to other workers");
        } else {
            tracing::info!(experiment_id = %experiment, "experiment ended");
        }
        self.stop(experiment).await;
        self.done.insert(experiment.clone());
        Ok(())
    }

    async fn stop(&mut self, experiment: &ExperimentId) {
        let Some(worker) = self.working.remove(experiment) else { return };
        let progress = worker.health().progress.borrow().clone();
        if let Err(error) = worker.stop().await {
            tracing::warn!(experiment_id = %experiment, error = format!("{error:#}"), "failed to stop an experiment in order");
        }
        self.status.note(experiment, Hosting::Ended(progress));
    }

    fn cancel_flags(&self) -> Vec<CancelFlag> {
        self.working.values().map(Worker::cancel_handle).collect()
    }

    /// Stops all experiments, and then the broker.
    async fn drain(self) -> anyhow::Result<()> {
        self.working.values().for_each(Worker::tell_to_stop);
        self.broker.close();
        let mut outcome = Ok(());
        for worker in self.working.into_values() {
            outcome = outcome.and(worker.drain().await.map_err(anyhow::Error::from));
        }
        let drained = self.broker.drained().await;
        outcome.and(drained.map_err(anyhow::Error::from))
    }
}
