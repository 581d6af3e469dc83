//! The gate before every step: while an experiment is paused, no batch begins, and the current one finishes.

use dissent_domain::operator::ExperimentStatus;
use tokio::sync::watch;

use crate::state::progress::Progress;

/// Whether steps may begin a batch, by the progress that this process has seen.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Receiver<Progress>);

impl Gate {
    /// The gate of the experiment with this progress.
    pub(crate) fn of(progress: watch::Receiver<Progress>) -> Self {
        Self(progress)
    }

    /// Whether the experiment is paused.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.borrow().status.is_paused()
    }

    /// Whether the experiment is cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.borrow().status == ExperimentStatus::Cancelled
    }

    /// Waits until the experiment is paused. Cancellation-safe.
    pub(crate) async fn closes(&mut self) {
        if self.0.wait_for(|progress| progress.status.is_paused()).await.is_err() {
            // The progress has ended: the gate stays as it is.
            std::future::pending().await
        }
    }

    /// Waits until the experiment is not paused; false if its progress has ended. Cancellation-safe.
    pub(crate) async fn opens(&mut self) -> bool {
        self.0.wait_for(|progress| !progress.status.is_paused()).await.is_ok()
    }
}
