//! The process that writes history: the journal over one log and one broker, and the experiment that it runs.

use std::sync::Arc;

use actix::Arbiter;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_models::runtime::CancelFlag;
use dissent_queues::Broker;
use tokio::sync::watch;

use super::ending::Ending;
use super::experiment::{Hosting, RunningExperiment};
use super::health::ProcessHealth;
use super::resources::Resources;
use crate::error::{PipelineError, RunFailure};
use crate::journal::artifact_check::ArtifactCheck;
use crate::journal::operator::Control;
use crate::journal::{self, CheckLimit, Journal};
use crate::live_models::token_meter::TokenMeter;
use crate::runner::failure::Failure;
use crate::state::States;
use crate::state::progress::Progress;

/// A running pipeline. It needs a running actix system.
pub struct Pipeline {
    log: Arc<dyn EventLog>,
    broker: Arc<dyn Broker>,
    journal_arbiter: Arbiter,
    check_limit: CheckLimit,
    control: Control,
    experiment: RunningExperiment,
}

impl Pipeline {
    /// Starts every step of an experiment where it stopped, or from its beginning.
    ///
    /// # Errors
    /// If the history cannot be rebuilt, the log or the broker fails, or the resources lack something that
    /// the plan needs.
    pub async fn start(plan: &Plan, resources: Resources) -> Result<Self, PipelineError> {
        let check = artifact_check(&resources);
        Box::pin(Self::start_with_check(plan, resources, check)).await
    }

    /// As [`start`](Self::start), with this check of the artifacts that trainings name.
    pub(crate) async fn start_with_check(
        plan: &Plan,
        resources: Resources,
        check: Option<ArtifactCheck>,
    ) -> Result<Self, PipelineError> {
        let (log, broker) = (resources.log.clone(), resources.broker.clone());
        let (failure, failed) = Failure::new();
        let states = States::default();
        states.load(&*log, &plan.experiment, resources.snapshots.as_ref())?;
        let (sender, progress) = watch::channel(states.progress(&plan.experiment));
        let mut journal = Journal::new(log.clone(), states.clone(), failure.clone());
        let rejections = journal.host(plan.experiment.clone(), sender, check);
        let (appends, idle, check_limit) =
            (journal.appends(), journal.idle_experiments(), journal.check_limit());
        let journal_arbiter = Arbiter::new();
        let control = Control::new(journal::start(journal, &*broker, &journal_arbiter.handle())?, idle);
        let hosting = Hosting { states, progress, rejections, failure, failed, appends };
        let experiment = RunningExperiment::start(plan, resources, hosting).await?;
        Ok(Self { log, broker, journal_arbiter, check_limit, control, experiment })
    }

    /// The progress of the experiment, as it changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.experiment.health.progress.clone()
    }

    /// Response tokens sampled by this process.
    #[must_use]
    pub fn meter(&self) -> TokenMeter {
        self.experiment.health.meter.clone()
    }

    /// Metrics to read during and after the run.
    #[must_use]
    pub fn health(&self) -> ProcessHealth {
        self.experiment.health.clone()
    }

    /// Gives operator commands to the experiments of the log.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits for the end of the experiment or, without an inbox, until it waits for judgements of people. The
    /// wait includes pauses: an operator may resume the experiment at any time.
    ///
    /// # Errors
    /// If a step, the log or the broker fails.
    pub async fn finished(&mut self) -> Result<Ending, PipelineError> {
        self.experiment.finished().await
    }

    /// Interrupts computations. A later run repeats them with the same result.
    pub fn cancel_handle(&self) -> CancelFlag {
        self.experiment.cancel.clone()
    }

    /// Stops in order: closes the broker, finishes running batches, makes everything durable. A training ends
    /// at its next step, with a checkpoint to resume from. An artifact check that still runs after 5 s is
    /// abandoned.
    ///
    /// # Errors
    /// If the log cannot be made durable.
    pub async fn drain(self) -> Result<(), PipelineError> {
        self.broker.close();
        let check_limit = self.check_limit;
        let limit = actix::spawn(async move { check_limit.expire().await });
        let snapshots = self.experiment.drained().await;
        self.broker.drained().await?;
        limit.abort();
        self.journal_arbiter.stop();
        let log = self.log.clone();
        let flushed = tokio::task::spawn_blocking(move || log.flush()).await;
        flushed.map_err(|_| RunFailure::Gone("thread that flushes the log"))??;
        if let Some(snapshots) = &snapshots {
            snapshots.write().await;
        }
        Ok(())
    }
}

/// The check of the artifacts that trainings name; `None` if the plan does not learn.
fn artifact_check(resources: &Resources) -> Option<ArtifactCheck> {
    let learning = resources.learning.as_ref()?;
    let artifacts = Arc::new(resources.artifacts.clone());
    Some(ArtifactCheck::new(artifacts, &learning.policy, &learning.reward))
}
