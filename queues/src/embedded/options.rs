//! Options of the embedded broker.

use std::time::Duration;

/// How the embedded broker works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// Events read from the log at a time, 1 to 4096. A group holds at most one and a half pages that it
    /// has not begun.
    pub page_events: usize,
    /// Longest wait between two attempts.
    pub retry_delay_max: Duration,
    /// Least time between two stores of a group's record: what is settled in between is written together.
    pub record_interval: Duration,
    /// Proposals that may lie undecided before proposers have to wait, at least 1.
    pub proposals_max: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            page_events: 256,
            retry_delay_max: Duration::from_secs(300),
            record_interval: Duration::from_millis(5),
            proposals_max: 64,
        }
    }
}
