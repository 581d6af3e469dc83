//! The operator's side of the journal: orders to start, pause, resume and cancel an experiment, whether or not its steps are at work.

use std::sync::Arc;

use actix::Addr;
use dissent_domain::decision::Rejection;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use dissent_domain::operator::{ExperimentStatus, OperatorCommand};
use tokio::sync::Mutex;

use crate::journal::{Bystanders, Command, Journal, LoadError, States};

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordered {
    /// How the experiment stands now.
    pub standing: ExperimentStatus,
    /// Whether anything had to be changed for that.
    pub changed: bool,
}

/// Why an order was not followed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no such experiment in the log.
    #[error("there is no experiment {0} in the log")]
    Unknown(ExperimentId),
    /// The rules say no.
    #[error("{experiment}: {rejection}")]
    Rejected {
        /// The experiment.
        experiment: ExperimentId,
        /// Why.
        rejection: Rejection,
    },
    /// The experiment's history cannot be rebuilt.
    #[error("failed to load the experiment")]
    Load(#[from] LoadError),
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The journal has stopped.
    #[error("the journal is gone")]
    Gone,
}

/// Gives orders to the experiments in the log of a running journal.
#[derive(Debug, Clone)]
pub struct Control {
    journal: Addr<Journal>,
    bystanders: Bystanders,
    /// One order at a time: the journal's mailbox has room for one beside the proposals.
    turn: Arc<Mutex<()>>,
}

impl Control {
    pub(crate) fn of(journal: Addr<Journal>, bystanders: Bystanders) -> Self {
        Self { journal, bystanders, turn: Arc::default() }
    }

    /// Gives an order. What it changes is durable on return.
    ///
    /// # Errors
    /// If there is no such experiment, the rules say no, or the log refuses.
    pub async fn order(
        &self,
        experiment: ExperimentId,
        order: OperatorCommand,
    ) -> Result<Ordered, OrderError> {
        let Self { journal, bystanders, turn } = self.clone();
        // Whoever asked may go away: an order that was given keeps its turn until it is decided.
        let told = tokio::spawn(async move {
            let _turn = turn.lock().await;
            let meant = experiment.clone();
            // A long history is not read where proposals wait.
            let loaded = tokio::task::spawn_blocking(move || bystanders.load(&meant));
            loaded.await.map_err(|_| OrderError::Gone)??;
            journal.send(Command { experiment, order }).await.map_err(|_| OrderError::Gone)?
        });
        told.await.map_err(|_| OrderError::Gone)?
    }
}

/// Gives an order to an experiment of a log that no journal is at work on. What it changes is durable on return.
///
/// # Errors
/// If there is no such experiment, the rules say no, or the log refuses.
pub async fn order(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    order: &OperatorCommand,
) -> Result<Ordered, OrderError> {
    let states = States::default();
    states.load_existing(log, experiment)?;
    let (append, ordered) = states.order(experiment, order)?;
    if let Some(append) = append {
        log.append(append).await?;
    }
    Ok(ordered)
}
