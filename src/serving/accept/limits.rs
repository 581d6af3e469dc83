//! The limits of a listener and its connections.

use std::time::Duration;

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Open connections, besides the reserve.
    pub(crate) connections: usize,
    /// Further connections, for health checks.
    pub(crate) reserve: usize,
    /// Open connections of one client address. Addresses of this host have no such limit.
    pub(crate) of_address: usize,
    /// Silence of a client after which it can lose its seat to another.
    pub(crate) patience: Duration,
    /// Longest wait for the whole head of each request.
    pub(crate) head_timeout: Duration,
    /// Longest wait for the next part of a request's body.
    pub(crate) body_timeout: Duration,
    /// Longest wait for a client to take the next part of its answer.
    pub(crate) answer_timeout: Duration,
    /// Requests after which a connection is closed.
    pub(crate) requests: usize,
    /// Age after which a connection is closed at the end of its answer.
    pub(crate) life: Duration,
    /// Further time for that answer, such as that to a request for a backup.
    pub(crate) grace: Duration,
    /// Longest life of a connection in the reserve.
    pub(crate) reserve_life: Duration,
    /// Silence of a client in the reserve after which it can lose its seat. A head that was sent at once has
    /// arrived by then.
    pub(crate) reserve_patience: Duration,
}

impl Limits {
    pub(crate) const DEFAULT: Self = Self {
        connections: 384,
        reserve: 64,
        of_address: 48,
        patience: Duration::from_secs(1),
        head_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(10),
        answer_timeout: Duration::from_secs(10),
        requests: 10_000,
        life: Duration::from_secs(600),
        grace: Duration::from_secs(3600),
        reserve_life: Duration::from_secs(2),
        reserve_patience: Duration::from_millis(50),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
