//! A worker: the steps of some roles, in a process without a log. The worker keeps a copy of the experiment's
//! history in memory, and proposes its results to the journal.
//!
//! A worker decides nothing. The journal checks its proposals against the rules. If a worker dies, hangs or
//! falls behind, another one receives its deliveries.

use std::sync::Arc;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::plan::Plan;
use dissent_models::runtime::CancelFlag;
use dissent_queues::Broker;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::health::ProcessHealth;
use super::history::History;
use super::resources::Resources;
use super::step_set::{self, RunningSteps};
use crate::error::{PipelineError, RunFailure};
use crate::runner::context::StepContext;
use crate::runner::failure::Failure;
use crate::runner::gate::Gate;
use crate::runner::known::KnownHistory;
use crate::runner::stop::StopSwitch;
use crate::runner::turns::Turns;
use crate::state::States;
use crate::state::progress::Progress;
use crate::steps::PIPELINE;
use crate::steps::training::assignment::TrainingIntake;

/// The part of a worker process that belongs to one experiment. It needs a running actix system.
pub struct Worker {
    broker: Arc<dyn Broker>,
    running: RunningSteps,
    following: JoinHandle<()>,
    stop: StopSwitch,
    experiment: ExperimentId,
    failure: watch::Receiver<Option<RunFailure>>,
    cancel: CancelFlag,
    health: ProcessHealth,
}

impl Worker {
    /// Starts the steps of `resources.roles` on an experiment. `history` begins at its first event;
    /// `resources.log` receives the copy, and must be empty. The experiments of a process share its `turns`.
    ///
    /// # Errors
    /// If the broker rejects a subscription, or the resources lack something that a role needs.
    pub fn start(
        plan: &Plan,
        resources: Resources,
        history: Box<dyn History>,
        turns: Turns,
    ) -> Result<Self, PipelineError> {
        let (failure, failed) = Failure::new();
        let states = States::default();
        let (progress, progressed) = watch::channel(Progress::default());
        let (known, knows) = watch::channel(0);
        let (log, broker, cancel) =
            (resources.log.clone(), resources.broker.clone(), resources.cancel.clone());
        let (stop, stopped) = StopSwitch::new();
        let context = StepContext {
            experiment: plan.experiment.clone(),
            broker: broker.clone(),
            failure: failure.clone(),
            known: KnownHistory::up_to(knows),
            gate: Gate::of(progressed.clone()),
            pipeline: &PIPELINE,
            stop: stopped,
            states: states.clone(),
            turns,
        };
        let (builder, _, learning) = step_set::split(plan, resources, &states);
        let running = builder.start(learning, &context)?;
        let experiment = plan.experiment.clone();
        let health = ProcessHealth {
            progress: progressed,
            meter: builder.meter,
            appends: None,
            states: states.clone(),
            experiment: experiment.clone(),
            log: log.clone(),
        };
        let copy = Copy { log, states, intake: running.intake(), progress, known };
        let following = actix::spawn(copy.follow(history, failure));
        Ok(Self { broker, running, following, stop, experiment, failure: failed, cancel, health })
    }

    /// Metrics to read during and after the run.
    #[must_use]
    pub fn health(&self) -> ProcessHealth {
        self.health.clone()
    }

    /// Interrupts computations. Another process repeats them with the same result.
    pub fn cancel_handle(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// The end of the experiment, to wait for.
    #[must_use]
    pub fn end(&self) -> WorkerEnd {
        WorkerEnd { progress: self.health.progress.clone(), failure: self.failure.clone() }
    }

    /// Waits until the experiment is finished or cancelled.
    ///
    /// # Errors
    /// If a step or the broker fails, or the history cannot be followed.
    pub async fn finished(&mut self) -> Result<(), PipelineError> {
        self.end().ended().await
    }

    /// Stops the steps of the experiment: finishes running batches, and sends their proposals. A training
    /// ends at its next step, with a checkpoint to resume from. Other experiments of the process continue.
    ///
    /// # Errors
    /// If the broker fails.
    pub async fn stop(self) -> Result<(), PipelineError> {
        self.tell_to_stop();
        self.running.drained().await;
        Ok(self.broker.leave(&self.experiment).await?)
    }

    /// Tells every step to stop after its batch.
    pub fn tell_to_stop(&self) {
        self.stop.stop();
        // Releases the deliveries that wait for more of the history.
        self.following.abort();
    }

    /// Stops the steps, and then the broker of the process.
    ///
    /// # Errors
    /// If the broker fails.
    pub async fn drain(self) -> Result<(), PipelineError> {
        self.tell_to_stop();
        self.broker.close();
        self.running.drained().await;
        Ok(self.broker.drained().await?)
    }
}

/// The end of an experiment in a worker.
#[derive(Debug, Clone)]
pub struct WorkerEnd {
    progress: watch::Receiver<Progress>,
    failure: watch::Receiver<Option<RunFailure>>,
}

impl WorkerEnd {
    /// Waits until the experiment is finished or cancelled.
    ///
    /// # Errors
    /// If a step or the broker fails, or the history cannot be followed.
    pub async fn ended(&mut self) -> Result<(), PipelineError> {
        let ended = || PipelineError::Failed(RunFailure::HistoryEnded);
        tokio::select! {
            // The failure is reported before its consequence, the end of the copy.
            biased;
            failed = self.failure.wait_for(Option::is_some) => {
                Err(failed.map_err(|_| ended())?.clone().map_or_else(ended, PipelineError::Failed))
            }
            finished = self.progress.wait_for(|progress| progress.is_over()) => finished.map(drop).map_err(|_| ended()),
        }
    }
}

/// The copy of an experiment's history, and its readers.
struct Copy {
    log: Arc<dyn EventLog>,
    states: States,
    intake: Option<Arc<TrainingIntake>>,
    progress: watch::Sender<Progress>,
    known: watch::Sender<u64>,
}

impl Copy {
    async fn follow(self, mut history: Box<dyn History>, failure: Failure) {
        loop {
            let applied = match history.next().await {
                Ok(Some(recorded)) => self.apply(&recorded).await,
                Ok(None) => return failure.report(RunFailure::HistoryEnded),
                Err(reason) => Err(RunFailure::History(reason)),
            };
            if let Err(error) = applied {
                return failure.report(error);
            }
        }
    }

    /// Applies the next event of the history.
    async fn apply(&self, recorded: &Recorded) -> Result<(), RunFailure> {
        self.states.follow(recorded).map_err(Arc::new)?;
        let append = Append {
            experiment: recorded.experiment.clone(),
            expected: ExpectedVersion::Exact(recorded.version - 1),
            events: vec![recorded.event.clone()],
        };
        self.log.append(append).await?;
        self.progress.send_replace(self.states.progress(&recorded.experiment));
        self.known.send_replace(recorded.version);
        match &self.intake {
            Some(intake) => intake.observe(recorded).map_err(RunFailure::training),
            None => Ok(()),
        }
    }
}
