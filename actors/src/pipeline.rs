//! All steps together, over one log and one broker: start, watch, drain.

use std::sync::Arc;

use actix::Arbiter;
use dissent_domain::event::{EventId, ExperimentStarted, NewEvent};
use dissent_domain::experiment::Plan;
use dissent_domain::log::{EventLog, LogError};
use dissent_domain::prompt::Prompt;
use dissent_models::runtime::CancelFlag;
use dissent_queues::{Answer, Broker, BrokerError, Proposal};
use tokio::sync::watch;

use crate::conflict::Conflict;
use crate::generation::{Generation, Policy, TokenMeter};
use crate::journal::{self, Journal, LoadError, Progress, States};
use crate::prompt::Prompts;
use crate::reward::{Proxy, Reward};
use crate::round::Coordinator;
use crate::set_aside;
use crate::step::{self, Failure, StepHandle, Surroundings};

/// What a pipeline works with.
pub struct Resources {
    /// The history.
    pub log: Arc<dyn EventLog>,
    /// Carries events and proposals.
    pub broker: Arc<dyn Broker>,
    /// The prompts of the plan, in order.
    pub prompts: Vec<Prompt>,
    /// The policy.
    pub policy: Policy,
    /// The proxy reward model.
    pub proxy: Proxy,
}

/// Why a pipeline did not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The experiment's history cannot be rebuilt.
    #[error("failed to load the experiment")]
    Load(#[from] LoadError),
    /// The broker refused.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The experiment cannot be started.
    #[error("failed to start the experiment: {0}")]
    Rejected(String),
    /// A step cannot go on.
    #[error("{0}")]
    Failed(String),
}

/// A running pipeline. Needs an actix system around it.
pub struct Pipeline {
    log: Arc<dyn EventLog>,
    broker: Arc<dyn Broker>,
    steps: Vec<StepHandle>,
    set_aside: tokio::task::JoinHandle<()>,
    journal_arbiter: Arbiter,
    progress: watch::Receiver<Progress>,
    failure: watch::Receiver<Option<String>>,
    cancel: CancelFlag,
    meter: TokenMeter,
}

impl Pipeline {
    /// Starts every step of an experiment where it stopped, or from its beginning.
    ///
    /// # Errors
    /// If its history cannot be rebuilt, or log or broker refuse.
    pub async fn start(plan: &Plan, resources: Resources) -> Result<Self, PipelineError> {
        let Resources { log, broker, prompts, policy, proxy } = resources;
        let (failure, failed) = Failure::new();
        let states = States::default();
        states.load(&*log, &plan.experiment)?;
        let (progress, progressed) = watch::channel(states.progress(&plan.experiment));
        let journal_arbiter = Arbiter::new();
        let journal = Journal::new(log.clone(), states.clone(), progress, failure.clone());
        journal::start(journal, &*broker, &journal_arbiter.handle())?;

        let around = Surroundings { experiment: plan.experiment.clone(), broker: broker.clone(), failure };
        let set_aside = actix::spawn(set_aside::run(broker.parked()?, around.clone()));
        let (cancel, meter) = (CancelFlag::default(), TokenMeter::default());
        let generation = Generation::new(policy, plan, cancel.clone(), meter.clone());
        let steps = vec![
            step::start(Coordinator::new(states, plan.experiment.clone()), &around)?,
            step::start(Prompts::new(prompts), &around)?,
            step::start(generation, &around)?,
            step::start(Reward::new(proxy, cancel.clone()), &around)?,
            step::start(Conflict::new(log.clone(), plan.conflict.logprob), &around)?,
        ];
        begin(&*broker, plan).await?;
        Ok(Self {
            log,
            broker,
            steps,
            set_aside,
            journal_arbiter,
            progress: progressed,
            failure: failed,
            cancel,
            meter,
        })
    }

    /// How far it has come; changes as it goes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Response tokens sampled by this process.
    #[must_use]
    pub fn meter(&self) -> TokenMeter {
        self.meter.clone()
    }

    /// Waits until the experiment is finished.
    ///
    /// # Errors
    /// If a step cannot go on.
    pub async fn finished(&mut self) -> Result<(), PipelineError> {
        let gone = || PipelineError::Failed("the journal is gone".to_owned());
        tokio::select! {
            finished = self.progress.wait_for(|progress| progress.finished) => {
                finished.map(drop).map_err(|_| gone())
            }
            failed = self.failure.wait_for(Option::is_some) => {
                let reason = failed.map_err(|_| gone())?.clone().unwrap_or_default();
                Err(PipelineError::Failed(reason))
            }
        }
    }

    /// Gives up what is being computed: it will be computed again, with the same result.
    pub fn cancel_handle(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// Stops in order: no more intake, finish what is in hand, make everything durable, stop.
    ///
    /// # Errors
    /// If the log cannot be made durable.
    pub async fn drain(self) -> Result<(), PipelineError> {
        self.broker.close();
        for step in self.steps {
            step.drained().await;
        }
        let _ = self.set_aside.await;
        self.broker.drained().await?;
        self.journal_arbiter.stop();
        let log = self.log;
        let flushed = tokio::task::spawn_blocking(move || log.flush()).await;
        flushed.map_err(|error| PipelineError::Failed(error.to_string()))?.map_err(PipelineError::Log)
    }
}

/// Proposes the start of the experiment: a second time it is answered with the first.
async fn begin(broker: &dyn Broker, plan: &Plan) -> Result<(), PipelineError> {
    let started = ExperimentStarted { plan: plan.clone() };
    let id = EventId::of_experiment(&plan.experiment);
    let event = NewEvent::new(id, None, "cli", 0, &started.into())
        .map_err(|error| PipelineError::Rejected(error.to_string()))?;
    let proposal = Proposal { experiment: plan.experiment.clone(), cause: None, events: vec![event] };
    match broker.propose(proposal).await? {
        Answer::Recorded(_) | Answer::Queued => Ok(()),
        Answer::Rejected { reason } => Err(PipelineError::Rejected(reason)),
    }
}
