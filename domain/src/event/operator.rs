//! What an operator ordered. Who and why are for people to read: no rule does.

use serde::{Deserialize, Serialize};

/// An experiment was paused: nothing new is begun until it is resumed, what was in hand is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentPaused {
    /// Which of its pauses, from 0.
    pub number: u32,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

/// A pause ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentResumed {
    /// The number of the pause that ended.
    pub number: u32,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

/// An experiment was given up: nothing happens in it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentCancelled {
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}
