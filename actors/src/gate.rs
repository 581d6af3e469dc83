//! The gate before every step: while an experiment is paused nothing is taken up, and what is in hand is finished.

use dissent_domain::operator::ExperimentStatus;
use tokio::sync::watch;

use crate::progress::Progress;

/// Whether steps may take anything up, as far as this process knows.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Receiver<Progress>);

impl Gate {
    /// The gate of an experiment that has come so far.
    pub(crate) fn of(progress: watch::Receiver<Progress>) -> Self {
        Self(progress)
    }

    /// Whether the experiment is paused.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.borrow().standing.is_paused()
    }

    /// Whether the experiment was given up, so that nothing is worth doing any more.
    pub(crate) fn is_for_nothing(&self) -> bool {
        self.0.borrow().standing == ExperimentStatus::Cancelled
    }

    /// Waits until it is closed. Cancellation-safe.
    pub(crate) async fn closes(&mut self) {
        if self.0.wait_for(|progress| progress.standing.is_paused()).await.is_err() {
            // Nobody will ever tell.
            std::future::pending().await
        }
    }

    /// Waits until it is open; false if nobody will ever tell. Cancellation-safe.
    pub(crate) async fn opens(&mut self) -> bool {
        self.0.wait_for(|progress| !progress.standing.is_paused()).await.is_ok()
    }
}
