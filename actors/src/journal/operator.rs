//! Operator commands: start, pause, resume and cancel an experiment, whether or not its steps run here.

use std::sync::Arc;

use actix::Addr;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::operator::OperatorCommand;
use tokio::sync::Mutex;

use super::{Command, IdleExperiments, Journal};
use crate::error::CommandError;
use crate::state::{CommandOutcome, States};

/// Gives operator commands to the experiments in the log of a running journal.
#[derive(Debug, Clone)]
pub struct Control {
    journal: Addr<Journal>,
    idle: IdleExperiments,
    /// One command at a time: the mailbox of the journal has room for one beside the proposals.
    turn: Arc<Mutex<()>>,
}

impl Control {
    pub(crate) fn new(journal: Addr<Journal>, idle: IdleExperiments) -> Self {
        Self { journal, idle, turn: Arc::default() }
    }

    /// Gives a command. Its effect is durable on return.
    ///
    /// # Errors
    /// If there is no such experiment, the rules reject the command, or the log fails.
    pub async fn command(
        &self,
        experiment: ExperimentId,
        command: OperatorCommand,
    ) -> Result<CommandOutcome, CommandError> {
        let Self { journal, idle, turn } = self.clone();
        // The caller may be cancelled: a command keeps its turn until it is decided.
        let decided = tokio::spawn(async move {
            let _turn = turn.lock().await;
            let loading = experiment.clone();
            // Not on the thread of the journal: proposals would wait while a long history is read.
            let loaded = tokio::task::spawn_blocking(move || idle.load(&loading));
            loaded.await.map_err(|_| CommandError::Gone)??;
            journal.send(Command { experiment, command }).await.map_err(|_| CommandError::Gone)?
        });
        decided.await.map_err(|_| CommandError::Gone)?
    }
}

/// Gives a command to an experiment of a log without a running journal. Its effect is durable on return.
///
/// # Errors
/// If there is no such experiment, the rules reject the command, or the log fails.
pub async fn command_in_log(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    command: &OperatorCommand,
) -> Result<CommandOutcome, CommandError> {
    let states = States::default();
    states.load_existing(log, experiment)?;
    let (append, outcome) = states.command(experiment, command)?;
    if let Some(append) = append {
        log.append(append).await?;
    }
    Ok(outcome)
}
