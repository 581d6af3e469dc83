//! Reports of the trainer thread, and the times of its lease.

use std::collections::BTreeMap;
use std::time::Duration;

use dissent_domain::event::Event;

use super::assignment::Assignment;
use crate::error::StepFault;

/// The lease of a training and the interval of its heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    pub(crate) lease: Duration,
    pub(crate) heartbeat: Duration,
}

impl LeaseTimes {
    /// A lease with five heartbeats: some may be late, or lost with a connection.
    #[must_use]
    pub fn of(lease: Duration) -> Self {
        Self { lease, heartbeat: lease / 5 }
    }
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self::of(Duration::from_secs(60))
    }
}

/// A report of the trainer thread.
pub(crate) enum Report {
    Began(Assignment),
    Progressed { step: u64, steps: u64, checkpoint: Option<String>, metrics: BTreeMap<String, f64> },
    Done(Box<Event>),
    Stopped,
    Failed(StepFault),
}
