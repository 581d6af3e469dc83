//! What whoever watches over a process may read of it at any time, without disturbing it.

use std::time::Duration;

use dissent_domain::id::ExperimentId;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::watch;

use crate::generation::TokenMeter;
use crate::journal::States;
use crate::progress::Progress;

/// The state of a running process.
#[derive(Debug, Clone)]
pub struct Vitals {
    /// How far the experiment has come.
    pub progress: watch::Receiver<Progress>,
    /// Response tokens sampled by this process.
    pub meter: TokenMeter,
    /// Seconds from a decision to its being durable; none where history is not written.
    pub appends: Option<Histogram>,
    pub(crate) states: States,
    pub(crate) experiment: ExperimentId,
}

impl Vitals {
    /// How long the training under way has given no sign of life; none if there is none.
    #[must_use]
    pub fn lease_age(&self) -> Option<Duration> {
        self.states.lease(&self.experiment).map(|lease| lease.silent)
    }
}

/// From a tenth of a millisecond to some seconds.
pub(crate) fn append_seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 16))
}
