//! The process that writes history: the journal over one log and one broker, and the experiments whose steps
//! it runs. Experiments are loaded and dropped one by one, and one that fails leaves the others alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Addr, Arbiter};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_models::runtime::CancelFlag;
use dissent_queues::Broker;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;

use super::experiment::{Hosting, RunEnd, RunningExperiment};
use super::health::ProcessHealth;
use super::history;
use super::resources::Resources;
use crate::error::{PipelineError, RunFailure};
use crate::journal::artifact_check::ArtifactCheck;
use crate::journal::operator::Control;
use crate::journal::{self, Adopt, CheckLimit, Journal, Leave};
use crate::runner::failure::Failure;
use crate::runner::turns::Turns;
use crate::state::States;

/// A running journal with the experiments that it hosts. It needs a running actix system.
pub struct Host {
    log: Arc<dyn EventLog>,
    broker: Arc<dyn Broker>,
    states: States,
    journal: Addr<Journal>,
    journal_arbiter: Arbiter,
    check_limit: CheckLimit,
    control: Control,
    appends: Histogram,
    /// The failure of the journal: no experiment can go on.
    failed: watch::Receiver<Option<RunFailure>>,
    turns: Turns,
    /// The last durable position of the log.
    advanced: watch::Receiver<u64>,
    running: BTreeMap<ExperimentId, RunningExperiment>,
}

impl Host {
    /// Starts a journal without experiments.
    ///
    /// # Errors
    /// If the broker has a journal already.
    pub fn start(log: Arc<dyn EventLog>, broker: Arc<dyn Broker>) -> Result<Self, PipelineError> {
        let (failure, failed) = Failure::new();
        let states = States::default();
        let journal = Journal::new(log.clone(), states.clone(), failure);
        let (appends, idle, check_limit) =
            (journal.appends(), journal.idle_experiments(), journal.check_limit());
        let journal_arbiter = Arbiter::new();
        let journal = journal::start(journal, &*broker, &journal_arbiter.handle())?;
        let control = Control::new(journal.clone(), idle);
        let (advanced, turns, running) = (history::advances(&*log), Turns::default(), BTreeMap::new());
        Ok(Self {
            log,
            broker,
            states,
            journal,
            journal_arbiter,
            check_limit,
            control,
            appends,
            failed,
            turns,
            advanced,
            running,
        })
    }

    /// Starts every step of an experiment where it stopped, or from its beginning. The log and the broker of
    /// the resources must be those of the host.
    ///
    /// # Errors
    /// If the experiment runs here already, its history cannot be rebuilt, or the log or the broker fails. If
    /// the resources lack something that the plan needs.
    pub async fn host(&mut self, plan: &Plan, resources: Resources) -> Result<(), PipelineError> {
        let check = artifact_check(&resources);
        Box::pin(self.host_with_check(plan, resources, check)).await
    }

    /// As [`host`](Self::host), with this check of the artifacts that trainings name.
    pub(crate) async fn host_with_check(
        &mut self,
        plan: &Plan,
        resources: Resources,
        check: Option<ArtifactCheck>,
    ) -> Result<(), PipelineError> {
        let experiment = plan.experiment.clone();
        if self.running.contains_key(&experiment) {
            return Err(PipelineError::RunsHere(experiment));
        }
        let (progress, rejections) = {
            // No operator command changes the experiment between the load of its state and its adoption.
            let _turn = self.control.turn().await;
            let (states, log, snapshots) =
                (self.states.clone(), self.log.clone(), resources.snapshots.clone());
            let loading = experiment.clone();
            let load = move || states.load(&*log, &loading, snapshots.as_ref());
            let loaded = tokio::task::spawn_blocking(load).await;
            loaded.map_err(|_| PipelineError::Failed(RunFailure::Gone("thread that loads a state")))??;
            let (sender, progress) = watch::channel(self.states.progress(&experiment));
            let adopt = Adopt { experiment: experiment.clone(), progress: sender, check };
            let rejections = self.journal.send(adopt).await.map_err(|_| journal_gone())?;
            (progress, rejections)
        };
        let (failure, failed) = Failure::new();
        let hosting = Hosting {
            states: self.states.clone(),
            progress,
            rejections,
            failure,
            failed,
            appends: self.appends.clone(),
            turns: self.turns.clone(),
            advanced: self.advanced.clone(),
        };
        match RunningExperiment::start(plan, resources, hosting).await {
            Ok(running) => {
                self.running.insert(experiment, running);
                Ok(())
            }
            Err(error) => {
                self.forget(&experiment).await?;
                Err(error)
            }
        }
    }

    /// The experiments whose steps run here.
    pub fn experiments(&self) -> impl Iterator<Item = (&ExperimentId, &ProcessHealth)> {
        self.running.iter().map(|(experiment, running)| (experiment, &running.health))
    }

    /// The metrics of an experiment; `None` if its steps do not run here.
    #[must_use]
    pub fn health(&self, experiment: &ExperimentId) -> Option<&ProcessHealth> {
        self.running.get(experiment).map(|running| &running.health)
    }

    /// The end of an experiment to wait for; `None` if its steps do not run here.
    #[must_use]
    pub fn end(&self, experiment: &ExperimentId) -> Option<RunEnd> {
        self.running.get(experiment).map(RunningExperiment::end)
    }

    /// Gives operator commands and judgements to the experiments of the log.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The failure of the journal, if it has failed: no experiment can go on.
    #[must_use]
    pub fn failure(&self) -> Option<RunFailure> {
        self.failed.borrow().clone()
    }

    /// Waits for a failure of the journal.
    pub fn failed(&self) -> impl Future<Output = RunFailure> + use<> {
        let mut failed = self.failed.clone();
        async move {
            let failure = failed.wait_for(Option::is_some).await;
            failure.ok().and_then(|failure| failure.clone()).unwrap_or(RunFailure::Gone("journal"))
        }
    }

    /// The flags that interrupt the computations of all experiments. A later run repeats them with the same
    /// result.
    #[must_use]
    pub fn cancel_flags(&self) -> Vec<CancelFlag> {
        self.running.values().map(|running| running.cancel.clone()).collect()
    }

    /// Interrupts the computations of one experiment.
    pub fn cancel_one(&self, experiment: &ExperimentId) {
        if let Some(running) = self.running.get(experiment) {
            running.cancel.cancel();
        }
    }

    /// Stops the steps of one experiment, and frees what they hold. Its history stays, and it can be hosted
    /// again. Nothing happens if it does not run here.
    ///
    /// # Errors
    /// If the broker cannot make its progress durable.
    pub async fn leave(&mut self, experiment: &ExperimentId) -> Result<(), PipelineError> {
        let Some(running) = self.running.remove(experiment) else { return Ok(()) };
        let snapshots = running.drained().await;
        self.forget(experiment).await?;
        if let Some(snapshots) = snapshots {
            snapshots.write().await;
        }
        Ok(())
    }

    async fn forget(&self, experiment: &ExperimentId) -> Result<(), PipelineError> {
        let left = self.broker.leave(experiment).await;
        self.journal.send(Leave(experiment.clone())).await.map_err(|_| journal_gone())?;
        Ok(left?)
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
        // All stop at once; each then finishes its batch.
        self.running.values().for_each(RunningExperiment::stop);
        let mut snapshots = Vec::new();
        for running in self.running.into_values() {
            snapshots.extend(running.drained().await);
        }
        self.broker.drained().await?;
        limit.abort();
        self.journal_arbiter.stop();
        let log = self.log.clone();
        let flushed = tokio::task::spawn_blocking(move || log.flush()).await;
        flushed.map_err(|_| RunFailure::Gone("thread that flushes the log"))??;
        for snapshots in &snapshots {
            snapshots.write().await;
        }
        Ok(())
    }
}

fn journal_gone() -> PipelineError {
    PipelineError::Failed(RunFailure::Gone("journal"))
}

/// The check of the artifacts that trainings name; `None` if the plan does not learn.
pub(crate) fn artifact_check(resources: &Resources) -> Option<ArtifactCheck> {
    let learning = resources.learning.as_ref()?;
    let artifacts = Arc::new(resources.artifacts.clone());
    Some(ArtifactCheck::new(artifacts, &learning.policy, &learning.reward))
}
