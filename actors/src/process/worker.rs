//! A worker: the steps of some roles, in a process without a log. It keeps a copy of the experiment's history
//! in memory, and proposes its results to the journal.
//!
//! A worker decides nothing. The journal checks its proposals against the rules. If a worker dies, hangs or
//! falls behind, another one receives its deliveries.

use std::sync::Arc;

use dissent_domain::event::Recorded;
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
use crate::error::{PipelineError, StepError, chain};
use crate::runner::context::StepContext;
use crate::runner::failure::Failure;
use crate::runner::gate::Gate;
use crate::runner::known::KnownHistory;
use crate::state::States;
use crate::state::progress::Progress;
use crate::steps::PIPELINE;
use crate::steps::training::assignment::TrainingIntake;

/// A running worker. Needs an actix system around it.
pub struct Worker {
    broker: Arc<dyn Broker>,
    running: RunningSteps,
    following: JoinHandle<()>,
    failure: watch::Receiver<Option<String>>,
    cancel: CancelFlag,
    health: ProcessHealth,
}

impl Worker {
    /// Starts the steps of `resources.roles` on an experiment. `history` begins at its first event;
    /// `resources.log` receives the copy, and must be empty.
    ///
    /// # Errors
    /// If the broker refuses, or the resources lack something that a role needs.
    pub fn start(
        plan: &Plan,
        resources: Resources,
        history: Box<dyn History>,
    ) -> Result<Self, PipelineError> {
        let (failure, failed) = Failure::new();
        let states = States::default();
        let (progress, progressed) = watch::channel(Progress::default());
        let (known, knows) = watch::channel(0);
        let (log, broker, cancel) =
            (resources.log.clone(), resources.broker.clone(), resources.cancel.clone());
        let context = StepContext {
            experiment: plan.experiment.clone(),
            broker: broker.clone(),
            failure: failure.clone(),
            known: KnownHistory::up_to(knows),
            gate: Gate::of(progressed.clone()),
            pipeline: &PIPELINE,
        };
        let (builder, _, learning) = step_set::split(plan, resources, &states);
        let running = builder.start(learning, &context)?;
        let experiment = plan.experiment.clone();
        let health = ProcessHealth {
            progress: progressed,
            meter: builder.meter,
            appends: None,
            states: states.clone(),
            experiment,
            log: log.clone(),
        };
        let copy = Copy { log, states, intake: running.intake(), progress, known };
        let following = actix::spawn(copy.follow(history, failure));
        Ok(Self { broker, running, following, failure: failed, cancel, health })
    }

    /// Metrics to read while it runs, and after.
    #[must_use]
    pub fn health(&self) -> ProcessHealth {
        self.health.clone()
    }

    /// Interrupts computations: another process repeats them, with the same result.
    pub fn cancel_handle(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// Waits until the experiment is over.
    ///
    /// # Errors
    /// If a step cannot go on, or the history cannot be followed.
    pub async fn finished(&mut self) -> Result<(), PipelineError> {
        let gone = || PipelineError::Failed("the experiment's history ended".to_owned());
        tokio::select! {
            // The reason comes before its consequence, the end of the copy.
            biased;
            failed = self.failure.wait_for(Option::is_some) => {
                let reason = failed.map_err(|_| gone())?.clone().unwrap_or_default();
                Err(PipelineError::Failed(reason))
            }
            finished = self.health.progress.wait_for(|progress| progress.is_over()) => finished.map(drop).map_err(|_| gone()),
        }
    }

    /// Stops in order: close the broker, finish running batches, send their proposals. A training ends at its
    /// next step, with a checkpoint to resume from.
    ///
    /// # Errors
    /// If the broker fails.
    pub async fn drain(self) -> Result<(), PipelineError> {
        // Deliveries that wait for more of the history are released.
        self.following.abort();
        self.broker.close();
        self.running.drained().await;
        Ok(self.broker.drained().await?)
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
            let taken = match history.next().await {
                Ok(Some(recorded)) => self.take(&recorded).await,
                Ok(None) => return failure.report("the experiment's history ended".to_owned()),
                Err(error) => Err(error),
            };
            if let Err(reason) = taken {
                return failure.report(format!("failed to follow the experiment's history: {reason}"));
            }
        }
    }

    async fn take(&self, recorded: &Recorded) -> Result<(), String> {
        self.states.follow(recorded).map_err(|error| chain(&error))?;
        let append = Append {
            experiment: recorded.experiment.clone(),
            expected: ExpectedVersion::Exact(recorded.version - 1),
            events: vec![recorded.event.clone()],
        };
        self.log.append(append).await.map_err(|error| chain(&error))?;
        self.progress.send_replace(self.states.progress(&recorded.experiment));
        self.known.send_replace(recorded.version);
        match &self.intake {
            Some(intake) => intake.observe(recorded).map_err(|error: StepError| error.to_string()),
            None => Ok(()),
        }
    }
}
