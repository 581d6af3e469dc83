//! Metrics of a running process. Reading them does not disturb it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;

use crate::live_models::token_meter::TokenMeter;
use crate::state::States;
use crate::state::clock::now_us;
use crate::state::progress::Progress;

/// Maximum number of unanswered events read to find the oldest one: reading more would make a scrape slow.
const WAITING_MAX: usize = 1024;

/// The health of a running process, for one experiment.
#[derive(Clone)]
pub struct ProcessHealth {
    /// The progress of the experiment.
    pub progress: watch::Receiver<Progress>,
    /// Response tokens sampled by this process.
    pub meter: TokenMeter,
    /// Seconds from a decision to its durability; `None` in a worker.
    pub appends: Option<Histogram>,
    pub(crate) states: States,
    pub(crate) experiment: ExperimentId,
    /// The part of the history that this process has.
    pub(crate) log: Arc<dyn EventLog>,
}

impl fmt::Debug for ProcessHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { progress, experiment, .. } = self;
        f.debug_struct("ProcessHealth")
            .field("experiment", experiment)
            .field("progress", progress)
            .finish_non_exhaustive()
    }
}

impl ProcessHealth {
    /// Time since the last heartbeat of the running training; `None` if no training runs.
    #[must_use]
    pub fn lease_age(&self) -> Option<Duration> {
        self.states.lease(&self.experiment).map(|lease| lease.silent)
    }

    /// Age of the oldest unanswered event, by the clock of its recorder; `None` if every event is answered.
    /// Reads the log, and blocks.
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
