//! Operator commands: start, pause, resume or cancel an experiment.
//!
//! No step proposes an operator command. Its event has the experiment's start as its cause. Pauses are
//! numbered, so that a repeated command has the same id. A paused experiment begins no new work: no event is
//! *due*, and steps handle no deliveries. Work in progress is still recorded, so the results equal those of a
//! run without a pause.

use serde::{Deserialize, Serialize};

use crate::event::{
    EventId, ExperimentCancelled, ExperimentPaused, ExperimentResumed, NewEvent, OperatorEvent,
};
use crate::experiment::Experiment;
use crate::plan::Plan;
use crate::rejection::{CommandRejection, Rejection};

/// Longest name of an operator, in bytes.
pub const BY_BYTES_MAX: usize = 256;
/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 2048;

/// The actor that an operator command's event names.
const ACTOR: &str = "operator";
/// The reason of the pause in which an experiment is created.
const CREATED: &str = "created, to be started later";

/// An action of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Start a created experiment.
    Start,
    /// Begin no new work.
    Pause,
    /// End the pause.
    Resume,
    /// End the experiment. No event follows.
    Cancel,
}

impl Action {
    /// The name of the action.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

/// A command of an operator to an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorCommand {
    /// The action.
    pub action: Action,
    /// The operator, for people to read; at most [`BY_BYTES_MAX`].
    pub by: String,
    /// The reason, for people to read; at most [`REASON_BYTES_MAX`].
    pub reason: Option<String>,
}

/// Status of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExperimentStatus {
    /// The experiment runs.
    #[default]
    #[serde(rename = "going")]
    Running,
    /// The experiment waits for its start: it was paused before its first round.
    Created,
    /// The experiment waits until it is resumed.
    Paused,
    /// The experiment was cancelled.
    Cancelled,
    /// The experiment did all its rounds.
    Finished,
}

impl ExperimentStatus {
    /// Whether the experiment waits for an operator.
    #[must_use]
    pub const fn is_paused(self) -> bool {
        matches!(self, Self::Created | Self::Paused)
    }
}

/// Returns the pause in which an experiment of this plan is created. Append it right after the start.
///
/// # Errors
/// If the event cannot be encoded.
pub fn created(plan: &Plan, by: String, time_us: u64) -> Result<NewEvent, crate::event::CodecError> {
    let paused = ExperimentPaused { number: 0, by, reason: Some(CREATED.to_owned()) };
    new_event(EventId::of_experiment(&plan.experiment), OperatorEvent::Paused(paused), time_us)
}

pub(crate) fn new_event(
    start: EventId,
    event: OperatorEvent,
    time_us: u64,
) -> Result<NewEvent, crate::event::CodecError> {
    let id = start.caused(event.event_type().name(), event.pause().unwrap_or(0));
    NewEvent::new(id, Some(start), ACTOR, time_us, &event.into())
}

impl Experiment {
    /// The status of the experiment.
    #[must_use]
    pub fn status(&self) -> ExperimentStatus {
        if self.cancelled().is_some() {
            ExperimentStatus::Cancelled
        } else if self.is_finished() {
            ExperimentStatus::Finished
        } else if self.paused().is_none() {
            ExperimentStatus::Running
        } else if self.rounds().is_empty() {
            ExperimentStatus::Created
        } else {
            ExperimentStatus::Paused
        }
    }

    /// Returns the event that an operator command causes; `None` if the experiment already has that status.
    ///
    /// # Errors
    /// The reason why the state does not allow the command.
    pub fn command_event(&self, command: &OperatorCommand) -> Result<Option<OperatorEvent>, Rejection> {
        let OperatorCommand { action, by, reason } = command.clone();
        let event = match (action, self.status()) {
            (Action::Cancel, ExperimentStatus::Cancelled)
            | (Action::Pause, ExperimentStatus::Paused | ExperimentStatus::Created)
            | (Action::Start | Action::Resume, ExperimentStatus::Running) => return Ok(None),
            (Action::Start, ExperimentStatus::Paused) => {
                return Err(CommandRejection::StartedBefore.into());
            }
            (Action::Cancel, _) => OperatorEvent::Cancelled(ExperimentCancelled { by, reason }),
            (Action::Pause, _) => {
                OperatorEvent::Paused(ExperimentPaused { number: self.pauses(), by, reason })
            }
            (Action::Start | Action::Resume, _) => {
                let number = self.pauses().saturating_sub(1);
                OperatorEvent::Resumed(ExperimentResumed { number, by, reason })
            }
        };
        self.decide_command(&event)?;
        Ok(Some(event))
    }

    /// Checks whether the event of an operator command may happen now.
    ///
    /// # Errors
    /// The reason why it may not.
    pub fn decide_command(&self, event: &OperatorEvent) -> Result<(), Rejection> {
        if self.plan().is_none() {
            return Err(Rejection::NotStarted);
        }
        match self.status() {
            ExperimentStatus::Cancelled => return Err(Rejection::Cancelled),
            ExperimentStatus::Finished => return Err(Rejection::Finished),
            ExperimentStatus::Running | ExperimentStatus::Created | ExperimentStatus::Paused => {}
        }
        let (by, reason) = match event {
            OperatorEvent::Paused(e) => {
                if self.paused().is_some() || e.number != self.pauses() {
                    return Err(CommandRejection::AlreadyPaused.into());
                }
                (&e.by, &e.reason)
            }
            OperatorEvent::Resumed(e) => {
                if self.paused().is_none_or(|paused| paused.number != e.number) {
                    return Err(CommandRejection::OtherPause.into());
                }
                (&e.by, &e.reason)
            }
            OperatorEvent::Cancelled(e) => (&e.by, &e.reason),
        };
        if by.len() > BY_BYTES_MAX {
            return Err(CommandRejection::OperatorTooLong.into());
        }
        if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
            return Err(CommandRejection::ReasonTooLong.into());
        }
        Ok(())
    }
}
