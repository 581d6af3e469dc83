//! The clock of messages to listeners: it tells at most four times a second how far the log has grown.

use std::sync::Arc;
use std::time::Duration;

use dissent_domain::log::EventLog as _;
use dissent_storage::SledLog;
use tokio::sync::watch;

/// Shortest time between two messages to a listener.
pub(crate) const INTERVAL: Duration = Duration::from_millis(250);

/// Tells the last durable position of the log, no more often than [`INTERVAL`]. All listeners wake together,
/// so that they can share what they read.
#[derive(Debug, Clone)]
pub(crate) struct Clock(watch::Receiver<u64>);

impl Clock {
    /// Starts a clock on the current runtime, with which it ends.
    pub(crate) fn of(log: Arc<SledLog>) -> Self {
        let (sender, receiver) = watch::channel(log.head());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !sender.is_closed() {
                ticks.tick().await;
                let head = log.head();
                sender.send_if_modified(|last| std::mem::replace(last, head) != head);
            }
        });
        Self(receiver)
    }

    /// A listener of the clock. It has seen the position of now.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        let mut listener = self.0.clone();
        listener.mark_unchanged();
        listener
    }
}
