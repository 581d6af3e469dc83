//! Results of the rules: [`Rejection`], why an event may not happen, and [`Due`], the events to propose next.

use crate::event::{Event, EventId, Stage};
use crate::id::PromptId;

/// Reason why a proposed event may not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The experiment has not started.
    #[error("the experiment has not started")]
    NotStarted,
    /// The experiment has already started.
    #[error("the experiment has already started")]
    AlreadyStarted,
    /// The experiment is finished.
    #[error("the experiment is finished")]
    Finished,
    /// The state of the round does not allow the event.
    #[error("round {round}: {reason}")]
    Round {
        /// The round.
        round: u32,
        /// The reason, for a person to read.
        reason: &'static str,
    },
    /// The state of the prompt does not allow the event.
    #[error("prompt {prompt_id}: {reason}")]
    Prompt {
        /// The prompt.
        prompt_id: PromptId,
        /// The reason, for a person to read.
        reason: &'static str,
    },
    /// The state of the comparison does not allow the event.
    #[error("comparison {comparison} of round {round}: {reason}")]
    Comparison {
        /// The round.
        round: u32,
        /// The comparison.
        comparison: u32,
        /// The reason, for a person to read.
        reason: &'static str,
    },
    /// The state of the evaluation does not allow the event.
    #[error("evaluation {evaluation}: {reason}")]
    Evaluation {
        /// Its number.
        evaluation: u32,
        /// The reason, for a person to read.
        reason: &'static str,
    },
    /// A setting of a fork contradicts the shared history.
    #[error("a fork at this position cannot change {key}: {reason}")]
    Fork {
        /// The setting, as in the configuration.
        key: &'static str,
        /// The reason, for a person to read.
        reason: &'static str,
    },
    /// A running experiment cannot become a fork.
    #[error("a running experiment cannot become a fork")]
    NotAFork,
    /// The experiment is paused, and the event would begin new work.
    #[error("the experiment is paused")]
    Paused,
    /// The experiment was cancelled.
    #[error("the experiment was cancelled")]
    Cancelled,
    /// Only operators cause this event; a step proposed it.
    #[error("only an operator command causes this event, not a step")]
    NotAStep,
    /// The state does not allow the operator command.
    #[error("{0}")]
    Command(&'static str),
    /// The state of the training does not allow the event.
    #[error("the training of the {} in round {round}: {reason}", stage.name())]
    Training {
        /// The round.
        round: u32,
        /// What is trained.
        stage: Stage,
        /// The reason, for a person to read.
        reason: &'static str,
    },
}

/// Events that the round step proposes together.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// Their cause. It does not depend on the order in which a round's prompts were done.
    pub cause: EventId,
    /// The events.
    pub events: Vec<Event>,
}
