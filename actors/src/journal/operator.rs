//! Operator commands: start, pause, resume and cancel an experiment, whether or not its steps run here.

use std::sync::Arc;

use actix::{Addr, Handler, Message};
use dissent_domain::event::FeedbackReceived;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::operator::OperatorCommand;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Command, IdleExperiments, Journal, Judge};
use crate::error::CommandError;
use crate::state::{CommandOutcome, Judged, States};

/// Gives operator commands and judgements to the experiments in the log of a running journal.
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

    /// Takes the turn of commands. Until the turn is dropped, no other command changes an experiment that is
    /// not hosted.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
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
        self.ask(experiment.clone(), Command { experiment, command }).await
    }

    /// Records judgements of people, all or none. They are durable on return. Judgements that are recorded
    /// already are counted.
    ///
    /// # Errors
    /// If there is no such experiment, the rules reject a judgement, or the log fails.
    pub async fn judge(
        &self,
        experiment: ExperimentId,
        judgements: Vec<FeedbackReceived>,
    ) -> Result<Judged, CommandError> {
        self.ask(experiment.clone(), Judge { experiment, judgements }).await
    }

    /// Asks the journal, which has the state of the experiment loaded then.
    async fn ask<M, T>(&self, experiment: ExperimentId, message: M) -> Result<T, CommandError>
    where
        M: Message<Result = Result<T, CommandError>> + Send + 'static,
        T: Send + 'static,
        Journal: Handler<M>,
    {
        let Self { journal, idle, turn } = self.clone();
        // The caller may be cancelled: a command keeps its turn until it is decided.
        let decided = tokio::spawn(async move {
            let _turn = turn.lock().await;
            let (idle_states, loading) = (idle.clone(), experiment.clone());
            // Not on the thread of the journal: proposals would wait while a long history is read.
            let loaded = tokio::task::spawn_blocking(move || idle_states.load(&loading));
            loaded.await.map_err(|_| CommandError::Gone)??;
            let answer = journal.send(message).await.map_err(|_| CommandError::Gone)?;
            // Its effect is durable: the state is read from the log when it is needed again.
            idle.drop_state(&experiment);
            answer
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
