//! What whoever watches over a process may read of it at any time, without disturbing it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::watch;

use crate::clock::now_us;
use crate::generation::TokenMeter;
use crate::journal::States;
use crate::progress::Progress;

/// Events that are looked at for the one that has waited longest: reading more would cost whoever scrapes too much.
const WAITING_MAX: usize = 1024;

/// The state of a running process.
#[derive(Clone)]
pub struct Vitals {
    /// How far the experiment has come.
    pub progress: watch::Receiver<Progress>,
    /// Response tokens sampled by this process.
    pub meter: TokenMeter,
    /// Seconds from a decision to its being durable; none where history is not written.
    pub appends: Option<Histogram>,
    pub(crate) states: States,
    pub(crate) experiment: ExperimentId,
    /// The history, as far as this process has it.
    pub(crate) log: Arc<dyn EventLog>,
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { progress, experiment, .. } = self;
        f.debug_struct("Vitals")
            .field("experiment", experiment)
            .field("progress", progress)
            .finish_non_exhaustive()
    }
}

impl Vitals {
    /// How long the training under way has given no sign of life; none if there is none.
    #[must_use]
    pub fn lease_age(&self) -> Option<Duration> {
        self.states.lease(&self.experiment).map(|lease| lease.silent)
    }

    /// How long an event has waited for what a step makes of it, the longest of all, by the clock of whoever recorded it; none if none
    /// waits. It reads the log, and blocks.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn longest_wait(&self) -> Result<Option<Duration>, LogError> {
        let mut oldest = None;
        for id in self.states.unanswered(&self.experiment).into_iter().take(WAITING_MAX) {
            let since = self.log.find(id)?.map(|recorded| recorded.event.time_us);
            oldest = [oldest, since].into_iter().flatten().min();
        }
        Ok(oldest.map(|since| Duration::from_micros(now_us().saturating_sub(since))))
    }
}

/// From a tenth of a millisecond to some seconds.
pub(crate) fn append_seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 16))
}
