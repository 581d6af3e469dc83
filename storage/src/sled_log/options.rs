//! Options of the log.

use std::time::Duration;

/// How a log is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SledOptions {
    /// Memory that sled may use for its pages, in bytes.
    pub cache_bytes: u64,
    /// Maximum number of appends that wait for the writer; further calls of `append` block.
    pub queue_length: usize,
    /// Maximum number of events in one commit. A larger append is a commit of its own.
    pub commit_events_max: usize,
    /// Longest wait of a commit for as many appends as the last commit had. A lone append never waits.
    pub linger_max: Duration,
    /// Longest time until a stored cursor is durable while no events come.
    pub cursor_delay_max: Duration,
    /// Maximum number of ids in memory; then they are written together as a run, and 16 runs are merged. More
    /// ids need more memory, 16 bytes each. And after the last run, opening reads each event. Fewer make more
    /// runs to search. Runs of any length can be read.
    pub run_events: u64,
    /// Whether the open reads and checks every event and not only the newest: seconds per million events.
    pub check_all: bool,
    /// Whether to open a log that has lost acknowledged events, without them. For rescuing the rest.
    pub accept_loss: bool,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 48 << 20,
            queue_length: 1024,
            commit_events_max: 256,
            linger_max: Duration::from_millis(5),
            cursor_delay_max: Duration::from_millis(200),
            run_events: 1 << 14,
            check_all: false,
            accept_loss: false,
        }
    }
}
