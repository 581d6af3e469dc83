//! Events of operator commands. No rule uses the operator or the reason.

use serde::{Deserialize, Serialize};

/// An experiment was paused. No new work begins until it is resumed; work in progress is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentPaused {
    /// The number of the pause, from 0.
    pub number: u32,
    /// The operator.
    pub by: String,
    /// The reason.
    pub reason: Option<String>,
}

/// A pause ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentResumed {
    /// The number of the pause that ended.
    pub number: u32,
    /// The operator.
    pub by: String,
    /// The reason.
    pub reason: Option<String>,
}

/// An experiment was cancelled. No event follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentCancelled {
    /// The operator.
    pub by: String,
    /// The reason.
    pub reason: Option<String>,
}
