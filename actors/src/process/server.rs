//! One experiment in the process that writes its history.

use dissent_domain::id::ExperimentId;
use dissent_domain::plan::Plan;
use dissent_models::runtime::CancelFlag;
use tokio::sync::watch;

use super::ending::Ending;
use super::experiment::RunEnd;
use super::health::ProcessHealth;
use super::host::{Host, artifact_check};
use super::resources::Resources;
use crate::error::PipelineError;
use crate::journal::artifact_check::ArtifactCheck;
use crate::journal::operator::Control;
use crate::live_models::token_meter::TokenMeter;
use crate::state::progress::Progress;

/// A host with one experiment. It needs a running actix system.
pub struct Pipeline {
    host: Host,
    experiment: ExperimentId,
    health: ProcessHealth,
    end: RunEnd,
    cancel: CancelFlag,
}

impl Pipeline {
    /// Starts every step of an experiment where it stopped, or from its beginning.
    ///
    /// # Errors
    /// As [`Host::host`].
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
        let cancel = resources.cancel.clone();
        let mut host = Host::start(resources.log.clone(), resources.broker.clone())?;
        host.host_with_check(plan, resources, check).await?;
        let experiment = plan.experiment.clone();
        let parts = host.health(&experiment).cloned().zip(host.end(&experiment));
        let (health, end) = parts.ok_or(PipelineError::Missing("the experiment"))?;
        Ok(Self { host, experiment, health, end, cancel })
    }

    /// The progress of the experiment, as it changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.health.progress.clone()
    }

    /// Response tokens sampled by this process.
    #[must_use]
    pub fn meter(&self) -> TokenMeter {
        self.health.meter.clone()
    }

    /// Metrics to read during and after the run.
    #[must_use]
    pub fn health(&self) -> ProcessHealth {
        self.health.clone()
    }

    /// The experiment.
    #[must_use]
    pub fn experiment(&self) -> &ExperimentId {
        &self.experiment
    }

    /// Gives operator commands to the experiments of the log.
    #[must_use]
    pub fn control(&self) -> Control {
        self.host.control()
    }

    /// Waits for the end of the experiment or, if it does not wait for people, until it needs their
    /// judgements. The wait includes pauses: an operator may resume the experiment at any time.
    ///
    /// # Errors
    /// If a step, the log or the broker fails.
    pub async fn finished(&mut self) -> Result<Ending, PipelineError> {
        tokio::select! {
            biased;
            failure = self.host.failed() => Err(PipelineError::Failed(failure)),
            ended = self.end.ended() => ended,
        }
    }

    /// Interrupts computations. A later run repeats them with the same result.
    pub fn cancel_handle(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// Stops in order, as [`Host::drain`].
    ///
    /// # Errors
    /// As [`Host::drain`].
    pub async fn drain(self) -> Result<(), PipelineError> {
        self.host.drain().await
    }
}
