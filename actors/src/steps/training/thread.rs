//! The trainer thread, and the task beside it that reports to the log.
//!
//! The task sends heartbeats well within the lease, even while the thread reports nothing. A single step may
//! take long, and its lease must not expire meanwhile.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use dissent_domain::event::{Event, PolicyTuned, RewardModelRefined, Stage, StepName, TrainingProgressed};
use dissent_domain::log::EventLog;
use dissent_domain::plan::{LearningPlan, Plan};
use dissent_domain::training::Hyperparameters;
use dissent_models::runtime::CancelFlag;
use dissent_queues::BrokerError;
use dissent_storage::{InvalidArtifactName, StorageError};
use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::TrainingStep;
use super::assignment::{Assignment, TrainingIntake};
use super::report::{LeaseTimes, Report};
use super::trainer::{Refinement, TrainedAdapter, Trainer, TrainingWatch, Tuning};
use super::{data, lease};
use crate::error::{PipelineError, RunFailure, StepError, StepFault, chain};
use crate::live_models::versions::{Base, Versions};
use crate::runner::context::StepContext;
use crate::runner::propose::{Decided, propose};
use crate::runner::step::Consequence;
use crate::runner::turns::Turns;
use crate::runner::{self, StepHandle, panic_message};
use crate::state::Lease;
use crate::state::clock::now_us;

/// Capacity of the channel of reports: a trainer that is faster than the log waits.
const REPORTS_MAX: usize = 16;

/// The inputs of the trainings of an experiment.
pub(crate) struct TrainingInputs {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) learning: LearningPlan,
    pub(crate) versions: Versions,
    /// The models that the experiment began with.
    pub(crate) policy: Base,
    pub(crate) reward: Base,
    pub(crate) trainer: Box<dyn Trainer>,
    pub(crate) cancel: CancelFlag,
}

/// A running training step.
pub(crate) struct TrainingHandle {
    step: StepHandle,
    intake: Arc<TrainingIntake>,
    stop: Arc<AtomicBool>,
    reporter: tokio::task::JoinHandle<()>,
}

impl TrainingHandle {
    /// Begins its trainings.
    pub(crate) fn intake(&self) -> Arc<TrainingIntake> {
        self.intake.clone()
    }

    /// Ends the training at its next step, with a checkpoint.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until the running training has ended, after the broker was closed.
    pub(crate) async fn drained(self) {
        let Self { step, intake, stop: _, reporter } = self;
        step.drained().await;
        // The thread ends once the last sender of assignments is dropped.
        drop(intake);
        if let Err(error) = reporter.await {
            tracing::error!(%error, "failed to join the lease reporter");
        }
    }
}

/// Starts the step with its thread.
pub(crate) fn start(
    inputs: TrainingInputs,
    times: LeaseTimes,
    context: &StepContext,
) -> Result<TrainingHandle, PipelineError> {
    let stop = Arc::new(AtomicBool::new(false));
    let (assignments, inbox) = std::sync::mpsc::channel();
    let (reports, reported) = mpsc::channel(REPORTS_MAX);
    let versions = inputs.versions.clone();
    let intake = Arc::new(TrainingIntake::new(versions.clone(), process_name(), assignments));
    let lease_ms = u64::try_from(times.lease.as_millis()).unwrap_or(u64::MAX);
    let training = TrainingStep::new(intake.clone(), lease_ms);
    let thread = TrainerThread { inputs, reports, stop: stop.clone(), turns: context.turns.clone() };
    std::thread::Builder::new()
        .name("trainer".to_owned())
        .spawn(move || thread.run(&inbox))
        .map_err(|source| PipelineError::Thread { step: StepName::Training, source })?;
    let reporter = LeaseReporter { context: context.clone(), versions, current: None };
    let reporter = actix::spawn(reporter.run(reported, times.heartbeat));
    let step = runner::start(training, context)?;
    Ok(TrainingHandle { step, intake, stop, reporter })
}

/// A unique name of this process: a process id or a time alone may repeat on a host, hardly both.
fn process_name() -> String {
    let system = rustix::system::uname();
    format!("process {} of {} on {}", std::process::id(), now_us(), system.nodename().to_string_lossy())
}

struct TrainerThread {
    inputs: TrainingInputs,
    reports: mpsc::Sender<Report>,
    stop: Arc<AtomicBool>,
    /// Trainings of several experiments run one after another.
    turns: Turns,
}

impl TrainerThread {
    /// Trains one assignment after the other, until the step has ended.
    fn run(mut self, assignments: &Receiver<Assignment>) {
        while let Ok(assignment) = assignments.recv() {
            if self.reports.blocking_send(Report::Began(assignment.clone())).is_err() {
                return;
            }
            let in_span = assignment.span.clone();
            let outcome = catch_unwind(AssertUnwindSafe(|| in_span.in_scope(|| self.train(&assignment))))
                .unwrap_or_else(|panic| Err(StepError::fatal(StepFault::Panicked(panic_message(&*panic)))));
            let report = match outcome {
                Ok(event) => Report::Done(Box::new(event)),
                Err(StepError::Cancelled) => Report::Stopped,
                Err(StepError::Retry(fault) | StepError::SetAside(fault) | StepError::Fatal(fault)) => {
                    Report::Failed(fault)
                }
            };
            if self.reports.blocking_send(report).is_err() {
                return;
            }
        }
    }

    fn train(&mut self, assignment: &Assignment) -> Result<Event, StepError> {
        let artifacts = self.inputs.versions.artifacts.clone();
        let stop = [self.stop.clone(), assignment.ends.clone()];
        let cancel = self.inputs.cancel.clone();
        let mut watch = TrainingWatch::new(self.reports.clone(), artifacts.clone(), cancel, stop);
        // Heartbeats keep the lease meanwhile.
        let turn = self.turns.take_blocking(StepName::Training, "", || watch.should_stop());
        let Some(_turn) = turn.filter(|_| !watch.should_stop()) else { return Err(StepError::Cancelled) };
        let trained = self.inputs.train(assignment, &mut watch)?;
        let bytes = trained.adapter.to_artifact().map_err(StepError::fatal)?;
        let adapter = artifacts.put_bytes(&bytes).map_err(StepError::fatal)?.to_string();
        Ok(result(assignment, adapter, trained))
    }
}

/// The event of a finished training.
pub(crate) fn result(assignment: &Assignment, adapter: String, trained: TrainedAdapter) -> Event {
    let &Assignment { round, attempt, .. } = assignment;
    let TrainedAdapter { fingerprint, preferences, rehearsed, metrics, .. } = trained;
    let metrics = finite(metrics);
    match assignment.stage {
        Stage::Reward => {
            RewardModelRefined { round, attempt, adapter, fingerprint, preferences, rehearsed, metrics }
                .into()
        }
        Stage::Policy => PolicyTuned { round, attempt, adapter, fingerprint, metrics }.into(),
    }
}

fn finite(metrics: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    metrics.into_iter().filter(|(_, value)| value.is_finite()).collect()
}

impl TrainingInputs {
    /// Trains on the history that this process has now.
    pub(crate) fn train(
        &mut self,
        assignment: &Assignment,
        watch: &mut TrainingWatch,
    ) -> Result<TrainedAdapter, StepError> {
        match assignment.stage {
            Stage::Reward => {
                let task = self.refinement(assignment)?;
                self.trainer.refine(task, watch)
            }
            Stage::Policy => {
                let task = self.tuning(assignment)?;
                self.trainer.tune(task, watch)
            }
        }
    }

    fn refinement(&self, assignment: &Assignment) -> Result<Refinement, StepError> {
        let Self { log, plan, versions, learning, .. } = self;
        let original = match &learning.refinement.original {
            Some(source) => data::original(source, versions)?,
            None => Vec::new(),
        };
        Ok(Refinement {
            adapter: versions.current_adapter(Stage::Reward, &self.reward)?,
            feedback: data::feedback(&**log, plan, versions, assignment.round)?,
            original,
            hyperparameters: of_round(&learning.refinement.hyperparameters, assignment.round),
            resume: self.resume(assignment)?,
        })
    }

    fn tuning(&self, assignment: &Assignment) -> Result<Tuning, StepError> {
        let Self { log, plan, versions, learning, .. } = self;
        let mut tuning = learning.tuning.clone();
        tuning.hyperparameters = of_round(&tuning.hyperparameters, assignment.round);
        Ok(Tuning {
            sampling_key: plan.sampling_key().to_owned(),
            seed: plan.seed,
            round: assignment.round,
            policy: versions.current_adapter(Stage::Policy, &self.policy)?,
            reward: versions.current_adapter(Stage::Reward, &self.reward)?,
            completions: data::sampled(&**log, plan, assignment.round)?,
            plan: tuning,
            resume: self.resume(assignment)?,
        })
    }

    fn resume(&self, assignment: &Assignment) -> Result<Option<Vec<u8>>, StepError> {
        const CHECKPOINT_BYTES_MAX: u64 = 16 << 30;
        let Some(checkpoint) = &assignment.checkpoint else { return Ok(None) };
        let id = checkpoint.parse().map_err(StepError::fatal::<InvalidArtifactName>)?;
        match self.versions.artifacts.read(&id, CHECKPOINT_BYTES_MAX) {
            Err(error @ (StorageError::ArtifactMissing(_) | StorageError::ArtifactDamaged { .. })) => {
                tracing::warn!(error = %chain(&error), "restarting a training from its first step");
                Ok(None)
            }
            read => read.map(Some).map_err(StepError::fatal),
        }
    }
}

/// Every round has its own data order.
fn of_round(settings: &Hyperparameters, round: u32) -> Hyperparameters {
    Hyperparameters { seed: settings.seed.wrapping_add(u64::from(round)), ..settings.clone() }
}

/// The task that proposes the reports of the thread, and heartbeats.
struct LeaseReporter {
    context: StepContext,
    versions: Versions,
    current: Option<Current>,
}

/// A running training.
struct Current {
    assignment: Assignment,
    sequence: u32,
    step: u64,
    steps: u64,
}

impl LeaseReporter {
    async fn run(mut self, mut reports: mpsc::Receiver<Report>, heartbeat: Duration) {
        let mut heartbeats = tokio::time::interval(heartbeat);
        heartbeats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => {
                        heartbeats.reset();
                        self.handle(report).await
                    }
                    None => return,
                },
                _ = heartbeats.tick() => self.heartbeat(None, BTreeMap::new()).await,
            };
            if let Err(failure) = outcome {
                return self.context.failure.report(failure);
            }
        }
    }

    async fn handle(&mut self, report: Report) -> Result<(), RunFailure> {
        match report {
            Report::Began(assignment) => {
                self.current = Some(Current { assignment, sequence: 0, step: 0, steps: 0 });
                Ok(())
            }
            Report::Progressed { step, steps, checkpoint, metrics } => {
                if let Some(current) = &mut self.current {
                    (current.step, current.steps) = (step, steps);
                }
                self.heartbeat(checkpoint, finite(metrics)).await
            }
            Report::Done(event) => {
                let Some(current) = self.current.take() else { return Ok(()) };
                self.propose(&current.assignment, *event).await.map(drop)
            }
            Report::Stopped => match self.current.take() {
                Some(current) => self.release(&current.assignment).await,
                None => Ok(()),
            },
            Report::Failed(fault) => {
                // The failure of an attempt that has lost its lease is ignored. The failure of an attempt
                // that ends for a pause is not.
                let has_lost_lease =
                    self.current.take().is_some_and(|it| !it.assignment.is_current(&self.versions));
                if has_lost_lease { Ok(()) } else { Err(RunFailure::training(fault)) }
            }
        }
    }

    /// Releases the lease when this process stops, so that the next attempt need not wait for its expiry.
    async fn release(&self, assignment: &Assignment) -> Result<(), RunFailure> {
        if !assignment.is_current(&self.versions) {
            return Ok(());
        }
        let &Assignment { round, stage, attempt, requested, .. } = assignment;
        let (lease_ms, silent, is_checking) = (0, Duration::ZERO, false);
        let lease = Lease { round, stage, attempt, requested, lease_ms, silent, is_checking };
        lease::expire(&lease, &self.context).await.map_err(failed)
    }

    async fn heartbeat(
        &mut self,
        checkpoint: Option<String>,
        metrics: BTreeMap<String, f64>,
    ) -> Result<(), RunFailure> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let Assignment { round, stage, attempt, .. } = current.assignment;
        let (sequence, step, steps) = (current.sequence, current.step, current.steps);
        current.sequence += 1;
        let progressed =
            TrainingProgressed { round, stage, attempt, sequence, step, steps, checkpoint, metrics };
        let assignment = current.assignment.clone();
        // A remote journal does not reply: the history shows its decision.
        let decided = self.propose(&assignment, progressed.into()).await?;
        if decided == Decided::Rejected || !assignment.is_current(&self.versions) {
            assignment.ends.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn propose(&self, assignment: &Assignment, event: Event) -> Result<Decided, RunFailure> {
        let consequence = Consequence { cause: assignment.requested, events: vec![event] };
        propose(&self.context, StepName::Training, &consequence)
            .instrument(assignment.span.clone())
            .await
            .map_err(failed)
    }
}

fn failed(source: BrokerError) -> RunFailure {
    RunFailure::StepBroker { step: StepName::Training, source }
}
