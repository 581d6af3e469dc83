//! The worker: trains on a thread of its own, while a task beside it tells the log how far it is.
//!
//! The task speaks up at intervals well within the lease even when nothing is reported: a single step may take long, and that
//! is no reason to give the training up.

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
use dissent_storage::StorageError;
use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::data;
use super::learner::{Learner, Learnt, Refinement, Tuning, Watch};
use super::{Assignment, Intake, Training, lease};
use crate::clock::now_us;
use crate::journal::Lease;
use crate::model::{Base, Versions, fatal};
use crate::step::{self, Consequence, Decided, StepError, StepHandle, Surroundings};

/// Reports on their way: a worker that is faster than the log waits.
const REPORTS_MAX: usize = 16;

/// How long a training may be silent, and how often it speaks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    pub(crate) lease: Duration,
    pub(crate) heartbeat: Duration,
}

impl LeaseTimes {
    /// A lease, with signs of life well within it: some may be late, or lost with a connection.
    #[must_use]
    pub fn of(lease: Duration) -> Self {
        Self { lease, heartbeat: lease / 5 }
    }
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self::of(Duration::from_secs(60))
    }
}

/// What the thread tells the task.
pub(crate) enum Report {
    Began(Assignment),
    Progressed { step: u64, steps: u64, checkpoint: Option<String>, metrics: BTreeMap<String, f64> },
    Done(Box<Event>),
    Stopped,
    Failed(String),
}

/// Everything that a worker trains with.
pub(crate) struct Workshop {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) learning: LearningPlan,
    pub(crate) versions: Versions,
    /// The models that the experiment began with.
    pub(crate) policy: Base,
    pub(crate) reward: Base,
    pub(crate) learner: Box<dyn Learner>,
    pub(crate) cancel: CancelFlag,
}

/// A running training step.
pub(crate) struct TrainingHandle {
    step: StepHandle,
    intake: Arc<Intake>,
    stop: Arc<AtomicBool>,
    reporter: tokio::task::JoinHandle<()>,
}

impl TrainingHandle {
    /// Where its trainings begin.
    pub(crate) fn intake(&self) -> Arc<Intake> {
        self.intake.clone()
    }

    /// Ends a training at its next step, with a checkpoint.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until what was in hand is done or given up, after the broker was closed.
    pub(crate) async fn drained(self) {
        let Self { step, intake, stop: _, reporter } = self;
        step.drained().await;
        // The thread ends when nobody can give it a training any more.
        drop(intake);
        if let Err(error) = reporter.await {
            tracing::error!(%error, "the training's reporter ended abnormally");
        }
    }
}

/// Starts the step with its worker.
pub(crate) fn start(
    workshop: Workshop,
    times: LeaseTimes,
    around: &Surroundings,
) -> Result<TrainingHandle, dissent_queues::BrokerError> {
    let stop = Arc::new(AtomicBool::new(false));
    let (assignments, inbox) = std::sync::mpsc::channel();
    let (reports, reported) = mpsc::channel(REPORTS_MAX);
    let versions = workshop.versions.clone();
    let intake = Arc::new(Intake::new(versions.clone(), process_name(), assignments));
    let lease_ms = u64::try_from(times.lease.as_millis()).unwrap_or(u64::MAX);
    let training = Training::new(intake.clone(), lease_ms);
    let thread = Thread { workshop, reports, stop: stop.clone() };
    std::thread::Builder::new().name("trainer".to_owned()).spawn(move || thread.run(&inbox)).map_err(
        |error| {
            dissent_queues::BrokerError::Invalid(format!("failed to start the trainer's thread: {error}"))
        },
    )?;
    let reporter = Reporter { around: around.clone(), versions, current: None };
    let reporter = actix::spawn(reporter.run(reported, times.heartbeat));
    let step = step::start(training, around)?;
    Ok(TrainingHandle { step, intake, stop, reporter })
}

/// Names this process. A process id may come again, and so may an instant, but hardly both, and on one host.
fn process_name() -> String {
    let host = gethostname::gethostname();
    format!("process {} of {} on {}", std::process::id(), now_us(), host.to_string_lossy())
}

struct Thread {
    workshop: Workshop,
    reports: mpsc::Sender<Report>,
    stop: Arc<AtomicBool>,
}

impl Thread {
    /// One training after the other, until the step is gone.
    fn run(mut self, assignments: &Receiver<Assignment>) {
        while let Ok(assignment) = assignments.recv() {
            if self.reports.blocking_send(Report::Began(assignment.clone())).is_err() {
                return;
            }
            let in_span = assignment.span.clone();
            let trained = catch_unwind(AssertUnwindSafe(|| in_span.in_scope(|| self.train(&assignment))))
                .unwrap_or_else(|panic| Err(StepError::Fatal(step::panicked(&*panic))));
            let report = match trained {
                Ok(event) => Report::Done(Box::new(event)),
                Err(StepError::Cancelled) => Report::Stopped,
                Err(error) => Report::Failed(error.to_string()),
            };
            if self.reports.blocking_send(report).is_err() {
                return;
            }
        }
    }

    fn train(&mut self, assignment: &Assignment) -> Result<Event, StepError> {
        let artifacts = self.workshop.versions.artifacts.clone();
        let stop = [self.stop.clone(), assignment.ends.clone()];
        let cancel = self.workshop.cancel.clone();
        let mut watch = Watch::new(self.reports.clone(), artifacts.clone(), cancel, stop);
        if watch.should_stop() {
            return Err(StepError::Cancelled);
        }
        let learnt = self.workshop.learn(assignment, &mut watch)?;
        let bytes = learnt.adapter.to_artifact().map_err(fatal)?;
        let adapter = artifacts.put_bytes(&bytes).map_err(fatal)?.to_string();
        Ok(result(assignment, adapter, learnt))
    }
}

/// The event that a training ends with.
pub(crate) fn result(assignment: &Assignment, adapter: String, learnt: Learnt) -> Event {
    let &Assignment { round, attempt, .. } = assignment;
    let Learnt { fingerprint, preferences, rehearsed, metrics, .. } = learnt;
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

impl Workshop {
    /// Does a training, on what the history that is known now says.
    pub(crate) fn learn(&mut self, assignment: &Assignment, watch: &mut Watch) -> Result<Learnt, StepError> {
        match assignment.stage {
            Stage::Reward => {
                let task = self.refinement(assignment)?;
                self.learner.refine(task, watch)
            }
            Stage::Policy => {
                let task = self.tuning(assignment)?;
                self.learner.tune(task, watch)
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
            experiment: plan.experiment.clone(),
            seed: plan.seed,
            round: assignment.round,
            policy: versions.current_adapter(Stage::Policy, &self.policy)?,
            reward: versions.current_adapter(Stage::Reward, &self.reward)?,
            answered: data::answered(&**log, plan, assignment.round)?,
            plan: tuning,
            resume: self.resume(assignment)?,
        })
    }

    fn resume(&self, assignment: &Assignment) -> Result<Option<Vec<u8>>, StepError> {
        const CHECKPOINT_BYTES_MAX: u64 = 16 << 30;
        let Some(checkpoint) = &assignment.checkpoint else { return Ok(None) };
        let id = checkpoint.parse().map_err(fatal)?;
        match self.versions.artifacts.read(&id, CHECKPOINT_BYTES_MAX) {
            Err(error @ (StorageError::ArtifactMissing(_) | StorageError::ArtifactDamaged { .. })) => {
                tracing::warn!(%error, "the training begins again");
                Ok(None)
            }
            read => read.map(Some).map_err(fatal),
        }
    }
}

/// Every round has an order of its data of its own.
fn of_round(settings: &Hyperparameters, round: u32) -> Hyperparameters {
    Hyperparameters { seed: settings.seed.wrapping_add(u64::from(round)), ..settings.clone() }
}

/// The task that speaks for the thread.
struct Reporter {
    around: Surroundings,
    versions: Versions,
    current: Option<Current>,
}

/// A training under way.
struct Current {
    assignment: Assignment,
    sequence: u32,
    step: u64,
    steps: u64,
}

impl Reporter {
    async fn run(mut self, mut reports: mpsc::Receiver<Report>, heartbeat: Duration) {
        let mut heartbeats = tokio::time::interval(heartbeat);
        heartbeats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => {
                        heartbeats.reset();
                        self.take(report).await
                    }
                    None => return,
                },
                _ = heartbeats.tick() => self.say_alive(None, BTreeMap::new()).await,
            };
            if let Err(reason) = outcome {
                self.around.failure.report(format!("the training step failed: {reason}"));
                return;
            }
        }
    }

    async fn take(&mut self, report: Report) -> Result<(), String> {
        match report {
            Report::Began(assignment) => {
                self.current = Some(Current { assignment, sequence: 0, step: 0, steps: 0 });
                Ok(())
            }
            Report::Progressed { step, steps, checkpoint, metrics } => {
                if let Some(current) = &mut self.current {
                    (current.step, current.steps) = (step, steps);
                }
                self.say_alive(checkpoint, finite(metrics)).await
            }
            Report::Done(event) => {
                let Some(current) = self.current.take() else { return Ok(()) };
                self.propose(&current.assignment, *event).await.map(drop)
            }
            Report::Stopped => match self.current.take() {
                Some(current) => self.give_up(&current.assignment).await,
                None => Ok(()),
            },
            Report::Failed(reason) => {
                // What an attempt that was given up says no longer counts; one that ends for a pause has failed all the same.
                let superseded =
                    self.current.take().is_some_and(|it| !it.assignment.is_current(&self.versions));
                if superseded { Ok(()) } else { Err(reason) }
            }
        }
    }

    /// Lets another go on at once, where this process was asked to stop: it would otherwise wait until the lease expires.
    async fn give_up(&self, assignment: &Assignment) -> Result<(), String> {
        if !assignment.is_current(&self.versions) {
            return Ok(());
        }
        let &Assignment { round, stage, attempt, requested, .. } = assignment;
        let lease = Lease { round, stage, attempt, requested, lease_ms: 0, silent: Duration::ZERO };
        lease::expire(&lease, &self.around).await.map_err(|error| error.to_string())
    }

    async fn say_alive(
        &mut self,
        checkpoint: Option<String>,
        metrics: BTreeMap<String, f64>,
    ) -> Result<(), String> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let Assignment { round, stage, attempt, .. } = current.assignment;
        let (sequence, step, steps) = (current.sequence, current.step, current.steps);
        current.sequence += 1;
        let alive = TrainingProgressed { round, stage, attempt, sequence, step, steps, checkpoint, metrics };
        let assignment = current.assignment.clone();
        // Where the journal is far away, its answer is only to be seen in what becomes of the history.
        let decided = self.propose(&assignment, alive.into()).await?;
        if decided == Decided::Rejected || !assignment.is_current(&self.versions) {
            assignment.ends.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn propose(&self, assignment: &Assignment, event: Event) -> Result<Decided, String> {
        let consequence = Consequence { cause: assignment.requested, events: vec![event] };
        step::propose(&*self.around.broker, &self.around.experiment, StepName::Training, &consequence)
            .instrument(assignment.span.clone())
            .await
            .map_err(|error| error.to_string())
    }
}
