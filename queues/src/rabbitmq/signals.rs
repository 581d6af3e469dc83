//! Signals between the parts of a broker that exist before the rest.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use super::refusal::Refusals;

/// Signals between the tasks of a broker.
#[derive(Debug)]
pub(super) struct Signals {
    pub refusals: Refusals,
    /// A queue is missing: the server checks all queues soon.
    pub check: Notify,
    /// Number of the server's start; 0 while unknown.
    start: AtomicU64,
    abandoned: watch::Sender<bool>,
}

impl Default for Signals {
    fn default() -> Self {
        let (check, start) = (Notify::new(), AtomicU64::new(0));
        Self { refusals: Refusals::default(), check, start, abandoned: watch::Sender::new(false) }
    }
}

impl Signals {
    pub(super) fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    pub(super) fn set_start(&self, start: u64) {
        self.start.store(start, Ordering::Release);
    }

    /// Ends all waits for RabbitMQ.
    pub(super) fn abandon(&self) {
        self.abandoned.send_replace(true);
    }

    /// Returns once the broker is abandoned.
    pub(super) async fn abandoned(&self) {
        let mut abandoned = self.abandoned.subscribe();
        // The sender lives as long as this value.
        let _open = abandoned.wait_for(|&abandoned| abandoned).await;
    }
}
