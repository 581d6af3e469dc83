//! Results of the rules: [`Rejection`], why an event may not happen, and [`Due`], the events to propose next.

use crate::event::{Event, EventId, Stage};
use crate::id::PromptId;

/// Why a proposed event may not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is no experiment yet.
    #[error("the experiment has not started")]
    NotStarted,
    /// There is one already.
    #[error("the experiment has already started")]
    AlreadyStarted,
    /// It is over.
    #[error("the experiment is finished")]
    Finished,
    /// The round is not in a state for this.
    #[error("round {round}: {reason}")]
    Round {
        /// The round.
        round: u32,
        /// Why not.
        reason: &'static str,
    },
    /// The prompt is not in a state for this.
    #[error("prompt {prompt_id}: {reason}")]
    Prompt {
        /// The prompt.
        prompt_id: PromptId,
        /// Why not.
        reason: &'static str,
    },
    /// The comparison is not in a state for this.
    #[error("comparison {comparison} of round {round}: {reason}")]
    Comparison {
        /// The round.
        round: u32,
        /// The comparison.
        comparison: u32,
        /// Why not.
        reason: &'static str,
    },
    /// The evaluation is not in a state for this.
    #[error("evaluation {evaluation}: {reason}")]
    Evaluation {
        /// Its number.
        evaluation: u32,
        /// Why not.
        reason: &'static str,
    },
    /// A fork's setting contradicts the past that it shares.
    #[error("{key} cannot be changed by a fork from there: {reason}")]
    Fork {
        /// The setting, as in the configuration.
        key: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A fork is no event that a running experiment could have.
    #[error("a running experiment does not become a fork")]
    NotAFork,
    /// It is paused, and this would begin something new.
    #[error("the experiment is paused")]
    Paused,
    /// It was given up.
    #[error("the experiment was cancelled")]
    Cancelled,
    /// No step proposes an operator's order.
    #[error("only an operator orders this, and no step proposes it")]
    NotAStep,
    /// An operator's order does not fit.
    #[error("{0}")]
    Command(&'static str),
    /// The training is not in a state for this.
    #[error("the training of the {} in round {round}: {reason}", stage.name())]
    Training {
        /// The round.
        round: u32,
        /// What is trained.
        stage: Stage,
        /// Why not.
        reason: &'static str,
    },
}

/// Events that the coordinator has to propose together.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// What they follow from: the same whatever the order in which a round's prompts were done.
    pub cause: EventId,
    /// The events.
    pub events: Vec<Event>,
}
