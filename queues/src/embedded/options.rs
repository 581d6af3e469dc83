//! Options of the embedded broker.

use std::time::Duration;

/// Settings of the embedded broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// Events read from the log at a time, 1 to 4096. A group holds at most one and a half pages of
    /// undelivered events.
    pub page_events: usize,
    /// Longest delay between two attempts.
    pub retry_delay_max: Duration,
    /// Shortest time between two stores of a group's record. Changes in between are written together.
    pub record_interval: Duration,
    /// Maximum number of undecided proposals, at least 1. Further proposers wait.
    pub proposals_max: usize,
    /// Longest time that [`leave`](crate::Broker::leave) waits for deliveries to be settled.
    pub leave_timeout: Duration,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            page_events: 256,
            retry_delay_max: Duration::from_secs(300),
            record_interval: Duration::from_millis(5),
            proposals_max: 64,
            leave_timeout: Duration::from_secs(10),
        }
    }
}
