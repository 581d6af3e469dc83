//! What an operator may ask of an experiment from outside: to start, to pause, to go on, to be given up.
//!
//! An order is no step's proposal: nothing in the history leads to it. It follows from the experiment's start, and pauses are
//! numbered, so that it has one id however often it is given. A paused experiment begins nothing new (nothing is *due* in it, and steps
//! take nothing up), yet whatever is in hand may still be recorded: the results are those of a run that was never paused.

use serde::{Deserialize, Serialize};

use crate::decision::Rejection;
use crate::event::{Event, EventId, ExperimentCancelled, ExperimentPaused, ExperimentResumed, NewEvent};
use crate::experiment::Experiment;
use crate::plan::Plan;

/// Longest name of an operator, in bytes.
pub const BY_BYTES_MAX: usize = 256;
/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 2048;

/// The step that an order's event names as its actor.
const ACTOR: &str = "operator";
/// The reason of the pause that an experiment is created with.
const CREATED: &str = "created, to be started later";

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Begin what was created.
    Start,
    /// Begin nothing new.
    Pause,
    /// Go on.
    Resume,
    /// Give it up for good.
    Cancel,
}

impl Action {
    /// Its word.
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

/// Something asked for by somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorCommand {
    /// What.
    pub action: Action,
    /// Who asks, for people to read; at most [`BY_BYTES_MAX`].
    pub by: String,
    /// Why, for people to read; at most [`REASON_BYTES_MAX`].
    pub reason: Option<String>,
}

/// Whether an experiment may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExperimentStatus {
    /// It goes on by itself, as far as its steps can.
    #[default]
    #[serde(rename = "going")]
    Running,
    /// It waits for its start: it was paused before anything happened in it.
    Created,
    /// It waits until it is resumed.
    Paused,
    /// It was given up.
    Cancelled,
    /// It did all that it planned.
    Finished,
}

impl ExperimentStatus {
    /// Whether it waits for an operator.
    #[must_use]
    pub const fn is_paused(self) -> bool {
        matches!(self, Self::Created | Self::Paused)
    }
}

/// The pause with which an experiment of this plan is created, to be appended right after its start.
///
/// # Errors
/// If it cannot be encoded.
pub fn created(plan: &Plan, by: String, time_us: u64) -> Result<NewEvent, crate::event::CodecError> {
    let paused = ExperimentPaused { number: 0, by, reason: Some(CREATED.to_owned()) };
    recorded_as(EventId::of_experiment(&plan.experiment), &paused.into(), time_us)
}

pub(crate) fn recorded_as(
    start: EventId,
    event: &Event,
    time_us: u64,
) -> Result<NewEvent, crate::event::CodecError> {
    let id = start.caused(event.event_type().name(), event.pause_number().unwrap_or(0));
    NewEvent::new(id, Some(start), ACTOR, time_us, event)
}

impl Experiment {
    /// Whether it may go on.
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

    /// The event that an order comes to; none if it is so already.
    ///
    /// # Errors
    /// Why it cannot be followed.
    pub fn command_event(&self, command: &OperatorCommand) -> Result<Option<Event>, Rejection> {
        let OperatorCommand { action, by, reason } = command.clone();
        let event: Event = match (action, self.status()) {
            (Action::Cancel, ExperimentStatus::Cancelled)
            | (Action::Pause, ExperimentStatus::Paused | ExperimentStatus::Created)
            | (Action::Start | Action::Resume, ExperimentStatus::Running) => return Ok(None),
            (Action::Start, ExperimentStatus::Paused) => {
                return Err(Rejection::Command("it was started before, and is paused: resume it"));
            }
            (Action::Cancel, _) => ExperimentCancelled { by, reason }.into(),
            (Action::Pause, _) => ExperimentPaused { number: self.pauses(), by, reason }.into(),
            (Action::Start | Action::Resume, _) => {
                ExperimentResumed { number: self.pauses().saturating_sub(1), by, reason }.into()
            }
        };
        self.decide_command(&event)?;
        Ok(Some(event))
    }

    /// Whether an operator's order may be followed now.
    ///
    /// # Errors
    /// Why it may not.
    pub fn decide_command(&self, event: &Event) -> Result<(), Rejection> {
        if self.plan().is_none() {
            return Err(Rejection::NotStarted);
        }
        match self.status() {
            ExperimentStatus::Cancelled => return Err(Rejection::Cancelled),
            ExperimentStatus::Finished => return Err(Rejection::Finished),
            ExperimentStatus::Running | ExperimentStatus::Created | ExperimentStatus::Paused => {}
        }
        let (by, reason) = if let Event::ExperimentPaused(e) = event {
            if self.paused().is_some() || e.number != self.pauses() {
                return Err(Rejection::Command("it is paused, or that pause is over"));
            }
            (&e.by, &e.reason)
        } else if let Event::ExperimentResumed(e) = event {
            if self.paused().is_none_or(|paused| paused.number != e.number) {
                return Err(Rejection::Command("that pause does not hold"));
            }
            (&e.by, &e.reason)
        } else if let Event::ExperimentCancelled(e) = event {
            (&e.by, &e.reason)
        } else {
            return Err(Rejection::Command("no operator orders this"));
        };
        if by.len() > BY_BYTES_MAX {
            return Err(Rejection::Command("the operator's name is longer than 256 bytes"));
        }
        if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
            return Err(Rejection::Command("the reason is longer than 2 KiB"));
        }
        Ok(())
    }
}
