//! Options of the log.

use std::time::Duration;

/// How a log is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SledOptions {
    /// Memory that sled may use for its pages, in bytes.
    pub cache_bytes: u64,
    /// Appends that may wait for the writer before `append` blocks.
    pub queue_length: usize,
    /// Most events in one commit; an append of more is a commit of its own.
    pub commit_events_max: usize,
    /// Longest time a commit waits for the appends that the last one had beside it. A lone append never
    /// waits.
    pub linger_max: Duration,
    /// Longest time a stored cursor stays undurable while no events come.
    pub cursor_delay_max: Duration,
    /// Newest events whose ids are kept in memory until they are written together, as a run. More need more memory, 16 bytes
    /// each, and make the writer pause longer (50 ms for the default); fewer make more runs to ask. Runs of any length are read.
    pub run_events: u64,
    /// Reads and checks every event at open, not only the newest: seconds per million events.
    pub check_all: bool,
    /// Opens a log that has lost acknowledged events, and forgets them. For rescuing what is left.
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
            run_events: 1 << 18,
            check_all: false,
            accept_loss: false,
        }
    }
}
