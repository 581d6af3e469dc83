//! A worker: the steps of some roles, in a process that has no log. It follows the experiment's history from afar, in a copy
//! that it keeps in memory, and everything that it finds out it proposes to the journal.
//!
//! A worker decides nothing. Whatever it says is checked against the rules where history is written; if it dies, hangs or
//! falls behind, what it had in hand is given to another.

use std::sync::Arc;

use dissent_domain::event::Recorded;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::plan::Plan;
use dissent_models::runtime::CancelFlag;
use dissent_queues::Broker;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::crew::{self, Crew, Resources};
use crate::gate::Gate;
use crate::history::History;
use crate::journal::States;
use crate::pipeline::PipelineError;
use crate::progress::Progress;
use crate::step::{Failure, Known, StepError, Surroundings};
use crate::training::Intake;
use crate::vitals::Vitals;

/// A running worker. Needs an actix system around it.
pub struct Worker {
    broker: Arc<dyn Broker>,
    crew: Crew,
    following: JoinHandle<()>,
    failure: watch::Receiver<Option<String>>,
    cancel: CancelFlag,
    vitals: Vitals,
}

impl Worker {
    /// Starts the steps of `resources.roles` on an experiment whose history comes from its start; `resources.log` is where its copy
    /// is kept, and begins empty.
    ///
    /// # Errors
    /// If the broker refuses, or a role asks for what the resources do not have.
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
        let around = Surroundings {
            experiment: plan.experiment.clone(),
            broker: broker.clone(),
            failure: failure.clone(),
            known: Known::up_to(knows),
            gate: Gate::of(progressed.clone()),
        };
        let (shop, _, learning) = crew::split(plan, resources, &states);
        let crew = shop.start(learning, &around)?;
        let experiment = plan.experiment.clone();
        let vitals = Vitals {
            progress: progressed,
            meter: shop.meter,
            appends: None,
            states: states.clone(),
            experiment,
            log: log.clone(),
        };
        let copy = Copy { log, states, intake: crew.intake(), progress, known };
        let following = actix::spawn(copy.follow(history, failure));
        Ok(Self { broker, crew, following, failure: failed, cancel, vitals })
    }

    /// What may be watched while it runs, and after.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.vitals.clone()
    }

    /// Gives up what is being computed: another will compute it, with the same result.
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
            finished = self.vitals.progress.wait_for(|progress| progress.is_over()) => finished.map(drop).map_err(|_| gone()),
        }
    }

    /// Stops in order: no more intake, finish what is in hand, hand over what was found out. A training ends at its next step,
    /// with a checkpoint for whoever goes on with it.
    ///
    /// # Errors
    /// If the broker cannot be told.
    pub async fn drain(self) -> Result<(), PipelineError> {
        // What waits for more of the history is given back.
        self.following.abort();
        self.broker.close();
        self.crew.drained().await;
        Ok(self.broker.drained().await?)
    }
}

/// The copy of an experiment's history, and what depends on it.
struct Copy {
    log: Arc<dyn EventLog>,
    states: States,
    intake: Option<Arc<Intake>>,
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
        self.states.follow(recorded).map_err(|error| error.to_string())?;
        let append = Append {
            experiment: recorded.experiment.clone(),
            expected: ExpectedVersion::Exact(recorded.version - 1),
            events: vec![recorded.event.clone()],
        };
        self.log.append(append).await.map_err(|error| error.to_string())?;
        self.progress.send_replace(self.states.progress(&recorded.experiment));
        self.known.send_replace(recorded.version);
        match &self.intake {
            Some(intake) => intake.take_note(recorded).map_err(|error: StepError| error.to_string()),
            None => Ok(()),
        }
    }
}
