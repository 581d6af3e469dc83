//! The experiments of a server: loads, hosts, halts and drops them.
//!
//! Each experiment of the log that has not ended runs from the configuration that the data folder keeps. One
//! that fails for good is halted with its reason, and the others continue. A halted experiment is tried again
//! at each restart, and by `dissent experiment retry`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dissent_actors::{Ending, Host, PipelineError, Resources, Roles, RunFailure};
use dissent_domain::event::EventType;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_models::runtime::CancelFlag;
use dissent_storage::{ArtifactStore, SledLog, Snapshots};
use tokio::sync::{mpsc, oneshot};

use super::archive;
use super::broker_handle::BrokerHandle;
use super::status::{Hosting, ServiceStatus};
use super::worker_directory::ServerEntry;
use crate::config::{ConfigSource, ServerConfig};
use crate::error::BadInput;
use crate::experiment::bundle;
use crate::experiment::kept_config::{Halt, KeptConfigs};
use crate::experiment::kept_settings::KeptSettings;
use crate::experiment::models::Models;
use crate::experiment::plan;
use crate::experiment::plan_fork::check_or_suggest;
use crate::experiment::start::{self, Backends};
use crate::log_access::inbox;

/// Capacity of the channel of orders and ends.
const ORDERS_MAX: usize = 64;
/// Interval at which queues of ended experiments are looked at, and idle models are let go.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// The parts that the experiments of a server share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) data_dir: PathBuf,
    pub(super) config: Arc<ServerConfig>,
    pub(super) roles: Roles,
    pub(super) log: Arc<SledLog>,
    pub(super) artifacts: ArtifactStore,
    pub(super) broker: BrokerHandle,
    pub(super) status: Arc<ServiceStatus>,
    /// The server as workers see it, without its experiments.
    pub(super) entry: ServerEntry,
}

/// An order to the experiments of a running server.
pub(super) enum Order {
    /// Host an experiment that was recorded, or go on with a halted one. Without a source, from its kept
    /// configuration.
    Host { experiment: ExperimentId, source: Option<ConfigSource>, done: oneshot::Sender<anyhow::Result<()>> },
    /// An experiment has ended or failed.
    Ended { experiment: ExperimentId, outcome: Result<Ending, PipelineError> },
}

/// Gives orders to the experiments of a running server.
#[derive(Clone)]
pub(crate) struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// Hosts an experiment, from its kept configuration. Returns once its steps run.
    ///
    /// # Errors
    /// If its configuration, data or models cannot be used, or the server stops.
    pub(super) async fn host(&self, experiment: &ExperimentId) -> anyhow::Result<()> {
        self.order(experiment, None).await
    }

    /// As [`host`](Self::host), from this configuration. If it can be used, it is kept in place of an earlier
    /// one.
    pub(super) async fn host_from(
        &self,
        experiment: &ExperimentId,
        source: ConfigSource,
    ) -> anyhow::Result<()> {
        self.order(experiment, Some(source)).await
    }

    async fn order(&self, experiment: &ExperimentId, source: Option<ConfigSource>) -> anyhow::Result<()> {
        let (done, outcome) = oneshot::channel();
        let order = Order::Host { experiment: experiment.clone(), source, done };
        self.0.send(order).await.map_err(|_| stopping())?;
        outcome.await.map_err(|_| stopping())?
    }
}

fn stopping() -> anyhow::Error {
    anyhow::anyhow!("the server is stopping")
}

/// An experiment that is ready to be hosted.
struct Opened {
    plan: Plan,
    batch_prompts: usize,
    resources: Resources,
}

/// The experiments of a running server.
pub(super) struct Experiments {
    shared: Shared,
    kept: KeptConfigs,
    host: Host,
    orders: mpsc::Sender<Order>,
    incoming: mpsc::Receiver<Order>,
    /// Ended experiments whose queues still exist.
    with_queues: BTreeSet<ExperimentId>,
    /// Whether RabbitMQ was connected at the last sweep, and the number of lost connections until then.
    connection: Option<(bool, u64)>,
}

impl Experiments {
    /// Starts a host without experiments.
    ///
    /// # Errors
    /// If the broker has another journal.
    pub(super) fn start(shared: Shared) -> Result<Self, PipelineError> {
        let log: Arc<dyn EventLog> = shared.log.clone();
        let host = Host::start(log, shared.broker.broker())?;
        let (orders, incoming) = mpsc::channel(ORDERS_MAX);
        let kept = KeptConfigs::of(&shared.data_dir);
        Ok(Self { shared, kept, host, orders, incoming, with_queues: BTreeSet::new(), connection: None })
    }

    /// Gives orders to these experiments.
    pub(super) fn orders(&self) -> Orders {
        Orders(self.orders.clone())
    }

    /// Gives operator commands and judgements to the experiments.
    pub(super) fn control(&self) -> dissent_actors::Control {
        self.host.control()
    }

    /// Hosts every experiment of the log that has not ended and whose configuration is kept. One that cannot
    /// be hosted is halted.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub(super) async fn host_all(&mut self) -> anyhow::Result<()> {
        for experiment in unended(&*self.shared.log)? {
            if self.host.health(&experiment).is_some() {
                continue;
            }
            if matches!(self.kept.find(&experiment), Ok(None)) {
                tracing::warn!(
                    experiment_id = %experiment,
                    "not hosting an experiment without a kept configuration: use `dissent serve CONFIG.toml` once"
                );
                self.shared.status.note(&experiment, Hosting::NoConfiguration);
                continue;
            }
            if let Err(error) = self.host(&experiment).await {
                self.check_process()?;
                self.halt(&experiment, format!("{error:#}"));
            }
        }
        self.announce().await;
        Ok(())
    }

    /// Hosts an experiment from this configuration, and keeps it. A configuration that cannot be used changes
    /// nothing.
    ///
    /// # Errors
    /// If the configuration, its data or its models cannot be used.
    pub(super) async fn host_from(
        &mut self,
        experiment: &ExperimentId,
        source: &ConfigSource,
    ) -> anyhow::Result<()> {
        if self.host.health(experiment).is_some() {
            return Ok(());
        }
        let before = self.shared.status.hosting(experiment);
        self.shared.status.note(experiment, Hosting::Loading);
        let hosted = self.load(experiment, source).await;
        if hosted.is_ok() {
            self.kept.keep(experiment, source)?;
        }
        match &hosted {
            Ok(()) => {
                self.kept.go_on(experiment)?;
                let status = self.shared.status.status(experiment).unwrap_or_default();
                tracing::info!(experiment_id = %experiment, ?status, "hosting experiment");
            }
            Err(_) => match before {
                Some(before) => self.shared.status.note(experiment, before),
                None => self.shared.status.forget(experiment),
            },
        }
        hosted
    }

    /// Hosts an experiment from its kept configuration.
    async fn host(&mut self, experiment: &ExperimentId) -> anyhow::Result<()> {
        let source = self.kept.find(experiment)?.with_context(|| {
            BadInput(format!(
                "the data folder keeps no configuration of {experiment}: use `dissent serve CONFIG.toml` or `dissent experiment create`"
            ))
        })?;
        self.host_from(experiment, &source).await
    }

    async fn load(&mut self, experiment: &ExperimentId, source: &ConfigSource) -> anyhow::Result<()> {
        let (shared, name, source) = (self.shared.clone(), experiment.clone(), source.clone());
        let opening = tokio::task::spawn_blocking(move || open(&shared, &name, &source));
        let Opened { plan, batch_prompts, resources } = opening.await.context("failed to load")??;
        self.shared.broker.prepare(&plan, batch_prompts).await?;
        self.host.host(&plan, resources).await?;
        self.with_queues.remove(experiment);
        let (Some(health), Some(mut end)) =
            (self.host.health(experiment).cloned(), self.host.end(experiment))
        else {
            anyhow::bail!("{experiment} is not hosted")
        };
        self.shared.status.note(experiment, Hosting::Running(health));
        let (orders, name) = (self.orders.clone(), experiment.clone());
        actix::spawn(async move {
            let outcome = end.ended().await;
            // The server may have stopped.
            let _stopped = orders.send(Order::Ended { experiment: name, outcome }).await;
        });
        inbox::take_in(&self.shared.data_dir, experiment, &self.host.control()).await;
        Ok(())
    }

    /// Tells workers through the shared store which experiments run here.
    async fn announce(&self) {
        if self.shared.broker.prefix().is_none() {
            // The embedded broker has no workers elsewhere.
            return;
        }
        let (shared, experiments) = (self.shared.clone(), self.shared.status.running());
        let announcing = tokio::task::spawn_blocking(move || match shared.artifacts.shared() {
            Some(store) => ServerEntry { experiments, ..shared.entry }.publish(store),
            None => Ok(()),
        });
        let failed = match announcing.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => error.to_string(),
        };
        tracing::warn!(error = failed, "failed to announce the experiments in the shared store");
    }

    /// Works on orders until the process fails, or until `is_done` says that no experiment is left to wait
    /// for. Cancellation-safe between two orders.
    ///
    /// # Errors
    /// If the log fails: no experiment can go on.
    pub(super) async fn run(&mut self, is_done: impl Fn(&ServiceStatus) -> bool) -> anyhow::Result<()> {
        let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut archiving = tokio::time::interval(archive::INTERVAL);
        archiving.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let failed = self.host.failed();
        tokio::pin!(failed);
        loop {
            if is_done(&self.shared.status) {
                return Ok(());
            }
            tokio::select! {
                failure = &mut failed => return Err(PipelineError::Failed(failure).into()),
                order = self.incoming.recv() => match order {
                    Some(order) => self.obey(order).await?,
                    None => return Ok(()),
                },
                _ = sweeps.tick() => {
                    self.shared.status.cache.drop_idle();
                    self.delete_unused_queues().await;
                }
                _ = archiving.tick() => self.archive(),
            }
        }
    }

    async fn obey(&mut self, order: Order) -> anyhow::Result<()> {
        match order {
            Order::Host { experiment, source, done } => {
                let hosted = match &source {
                    Some(source) => self.host_from(&experiment, source).await,
                    None => self.host(&experiment).await,
                };
                match &hosted {
                    Ok(()) => self.announce().await,
                    Err(error) => {
                        self.check_process()?;
                        // A new configuration that cannot be used leaves the experiment as it was.
                        if source.is_none() {
                            self.halt(&experiment, format!("{error:#}"));
                        }
                    }
                }
                // Who ordered it may have stopped waiting.
                let _gone = done.send(hosted);
            }
            Order::Ended { experiment, outcome } => self.end(&experiment, outcome).await?,
        }
        Ok(())
    }

    async fn end(
        &mut self,
        experiment: &ExperimentId,
        outcome: Result<Ending, PipelineError>,
    ) -> anyhow::Result<()> {
        let Some(health) = self.host.health(experiment) else { return Ok(()) };
        let progress = health.progress.borrow().clone();
        if let Err(error) = outcome {
            if is_of_process(&error) {
                return Err(error.into());
            }
            self.check_process()?;
            self.host.cancel_one(experiment);
            if let Err(error) = self.host.leave(experiment).await {
                tracing::warn!(experiment_id = %experiment, error = format!("{error:#}"), "failed to stop an experiment in order");
            }
            self.halt(experiment, format!("{:#}", anyhow::Error::from(error)));
            self.announce().await;
            return Ok(());
        }
        tracing::info!(experiment_id = %experiment, status = ?progress.status, "experiment ended");
        if let Err(error) = self.host.leave(experiment).await {
            self.check_process()?;
            tracing::warn!(experiment_id = %experiment, error = format!("{error:#}"), "failed to stop an ended experiment in order");
        }
        self.shared.status.note(experiment, Hosting::Ended(progress));
        self.with_queues.insert(experiment.clone());
        self.announce().await;
        Ok(())
    }

    /// Notes why an experiment does not go on.
    fn halt(&self, experiment: &ExperimentId, reason: String) {
        tracing::error!(
            experiment_id = %experiment,
            error = reason,
            "halting experiment; go on with `dissent experiment retry`"
        );
        let halt = Halt { reason, at_us: dissent_actors::now_us() };
        if let Err(error) = self.kept.halt(experiment, &halt) {
            tracing::error!(experiment_id = %experiment, error = format!("{error:#}"), "failed to keep the reason of a halt");
        }
        self.shared.status.note(experiment, Hosting::Halted(halt));
    }

    /// Returns the failure of the journal, if it has failed.
    fn check_process(&self) -> anyhow::Result<()> {
        self.host.failure().map_or(Ok(()), |failure| Err(PipelineError::Failed(failure).into()))
    }

    /// Copies experiments that ended long ago to the archive, if one is configured. A failure is logged, and
    /// the next turn tries again.
    fn archive(&self) {
        let (log, config) = (self.shared.log.clone(), self.shared.config.clone());
        tokio::task::spawn_blocking(move || {
            let Some(archive) = &config.archive else { return };
            match archive::archive_due(&*log, archive, dissent_actors::now_us()) {
                Ok(copied) => copied.iter().for_each(|experiment| {
                    tracing::info!(experiment_id = %experiment, folder = %archive.folder.display(), "archived experiment");
                }),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "failed to archive experiments, retrying later"),
            }
        });
    }

    /// Deletes the queues of ended experiments that no worker follows any more, if the connection has lasted
    /// since the last sweep. If queues are deleted while RabbitMQ 3.10 starts, it declares no queue any more.
    async fn delete_unused_queues(&mut self) {
        let connection = self.shared.broker.status().map(|status| (status.connected, status.reconnects));
        let before = std::mem::replace(&mut self.connection, connection);
        if connection != before || connection.is_some_and(|(is_connected, _)| !is_connected) {
            return;
        }
        for experiment in self.with_queues.clone() {
            if self.shared.broker.delete_queues(&experiment, Duration::ZERO).await {
                self.with_queues.remove(&experiment);
            }
        }
    }

    /// The flags that interrupt the computations of all experiments.
    pub(super) fn cancel_flags(&self) -> Vec<CancelFlag> {
        self.host.cancel_flags()
    }

    /// Stops the host in order. With `deletes_queues`, also deletes the queues of ended experiments.
    ///
    /// # Errors
    /// If the log cannot be made durable.
    pub(super) async fn drain(self, deletes_queues: bool) -> anyhow::Result<()> {
        self.host.drain().await?;
        if deletes_queues {
            for experiment in &self.with_queues {
                self.shared.broker.delete_queues(experiment, super::broker_handle::DISCONNECT_TIMEOUT).await;
            }
        }
        Ok(())
    }
}

fn is_of_process(error: &PipelineError) -> bool {
    match error {
        PipelineError::Failed(failure) => RunFailure::is_of_process(failure),
        PipelineError::Log(_) => true,
        PipelineError::Load(_)
        | PipelineError::Broker(_)
        | PipelineError::Encode(_)
        | PipelineError::Rejected(_)
        | PipelineError::RunsHere(_)
        | PipelineError::NoStep(_)
        | PipelineError::Thread { .. }
        | PipelineError::Missing(_) => false,
    }
}

/// Returns the experiments of a log whose last event does not end them.
///
/// # Errors
/// If the log cannot be read.
pub(super) fn unended(log: &dyn EventLog) -> anyhow::Result<Vec<ExperimentId>> {
    let mut unended = Vec::new();
    for (experiment, last) in log.streams()? {
        let event = log.read_stream(&experiment, last.saturating_sub(1), 1)?.pop();
        let kind = event.and_then(|recorded| EventType::from_name(&recorded.event.event_type));
        if !matches!(kind, Some(EventType::ExperimentFinished | EventType::ExperimentCancelled)) {
            unended.push(experiment);
        }
    }
    Ok(unended)
}

/// Opens everything that an experiment needs. Blocks.
fn open(shared: &Shared, experiment: &ExperimentId, source: &ConfigSource) -> anyhow::Result<Opened> {
    let mut config = source.load()?;
    shared.config.apply(&mut config);
    let found = &config.experiment.name;
    anyhow::ensure!(found == experiment, BadInput(format!("the kept configuration is that of {found}")));
    let log: Arc<dyn EventLog> = shared.log.clone();
    let kept = KeptSettings::of_experiment(&*log, experiment)?;
    let models = Models::open(&config, kept.reading)?;
    let planned = plan::plan(&config, &models, &shared.artifacts, &kept)?;
    check_or_suggest(&*log, &planned.plan)?;
    if let Some(prefix) = shared.broker.prefix() {
        bundle::publish(source, prefix, &shared.artifacts)?;
    }
    let plan = planned.plan.clone();
    let backends = Backends {
        log,
        broker: shared.broker.broker(),
        artifacts: shared.artifacts.clone(),
        snapshots: Some(Snapshots::new(start::snapshots_folder(&shared.data_dir))),
        waits_for_people: true,
        lease: shared.config.broker.lease(),
        shared: shared.config.broker.is_shared(),
        cache: shared.status.cache.clone(),
        loads_models: false,
    };
    let batch_prompts = config.generation.batch_prompts;
    let resources = start::open(&config, &models, planned, shared.roles.clone(), backends)?;
    Ok(Opened { plan, batch_prompts, resources })
}
