//! The signals of a service: SIGTERM and SIGINT stop it in order, a second one at once, and SIGHUP reloads.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Longest time for work in progress to end after a signal.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// The signals of this process.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

/// A signal to react to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// Stop in order.
    Stop,
    /// Reload what can be reloaded.
    Reload,
}

impl Signals {
    /// Begins to receive the signals, in place of the reaction of the system.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Returns the next signal. Cancellation-safe.
    pub(super) async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.interrupt.recv() => Received::Stop,
            _ = self.terminate.recv() => Received::Stop,
            _ = self.hang_up.recv() => Received::Reload,
        }
    }

    /// Gives work in progress time to end. Returns the notification that the time is over, or that a second
    /// signal came.
    pub(super) fn grace(mut self, grace: Duration) -> Arc<Notify> {
        let over = Arc::new(Notify::new());
        let notified = over.clone();
        actix::spawn(async move {
            let second = async { while self.next().await != Received::Stop {} };
            if tokio::time::timeout(grace, second).await.is_err() && !grace.is_zero() {
                tracing::warn!(grace_s = grace.as_secs(), "abandoning work in progress");
            }
            notified.notify_one();
        });
        over
    }
}
