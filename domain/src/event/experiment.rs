//! Events of a whole experiment: its start, its fork and its end.

use serde::{Deserialize, Serialize};

use crate::id::ExperimentId;
use crate::plan::Plan;

/// An experiment started. The event has the whole plan, so that only the log determines the experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExperimentStarted {
    /// The plan.
    pub plan: Plan,
    /// Version of the program that started it; `None` in events of version 1.
    pub program: Option<String>,
}

impl ExperimentStarted {
    /// The start of an experiment by this program.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self { plan, program: Some(env!("CARGO_PKG_VERSION").to_owned()) }
    }
}

/// An experiment became a fork. The events before this one are shared with its origin; from here on another
/// plan applies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExperimentForked {
    /// The experiment whose history it shares.
    pub origin: ExperimentId,
    /// The position of the last shared event, in the log of the fork's creation.
    pub position: u64,
    /// Number of shared events.
    pub shared: u64,
    /// The plan that applies from here on.
    pub plan: Plan,
}

/// The experiment did all its rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExperimentFinished {
    /// Number of rounds.
    pub rounds: u32,
}
