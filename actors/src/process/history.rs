//! The durable history of an experiment, as it grows: read from the log, or received from another process.

use std::collections::VecDeque;
use std::sync::Arc;

use dissent_domain::error::chain;
use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_queues::BoxFuture;
use tokio::sync::watch;

/// Returns the last durable position of a log, as it grows.
pub(super) fn advances(log: &dyn EventLog) -> watch::Receiver<u64> {
    let (head, advanced) = watch::channel(log.head());
    log.on_advance(Box::new(move |position| {
        head.send_replace(position);
    }));
    advanced
}

/// Events read from the log at once.
const PAGE: usize = 1024;

/// The durable events of one experiment, each once, in the order of their versions.
pub trait History: Send {
    /// Waits for the next event; `None` at the end of the history. Cancellation-safe.
    ///
    /// # Errors
    /// The reason why the history cannot be followed.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Recorded>, String>>;
}

/// History read from the log itself.
pub struct LogHistory {
    log: Arc<dyn EventLog>,
    experiment: ExperimentId,
    version: u64,
    page: VecDeque<Recorded>,
    advanced: watch::Receiver<u64>,
}

impl LogHistory {
    /// The events after this version (0: from the start). The log keeps a listener as long as it is open.
    #[must_use]
    pub fn after(log: Arc<dyn EventLog>, experiment: ExperimentId, version: u64) -> Self {
        let advanced = advances(&*log);
        Self::following(log, experiment, version, advanced)
    }

    /// As [`after`](Self::after), with the last durable position of the log as it grows.
    pub(crate) fn following(
        log: Arc<dyn EventLog>,
        experiment: ExperimentId,
        version: u64,
        advanced: watch::Receiver<u64>,
    ) -> Self {
        Self { log, experiment, version, page: VecDeque::new(), advanced }
    }

    async fn turn_page(&mut self) -> Result<(), String> {
        let (log, experiment, version) = (self.log.clone(), self.experiment.clone(), self.version);
        let read = tokio::task::spawn_blocking(move || log.read_stream(&experiment, version, PAGE)).await;
        self.page = read.map_err(|error| chain(&error))?.map_err(|error| chain(&error))?.into();
        Ok(())
    }
}

impl History for LogHistory {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Recorded>, String>> {
        Box::pin(async {
            loop {
                if let Some(recorded) = self.page.pop_front() {
                    self.version = recorded.version;
                    return Ok(Some(recorded));
                }
                // Marked before the read: an append during the read wakes the next wait.
                self.advanced.mark_unchanged();
                self.turn_page().await?;
                if self.page.is_empty() && self.advanced.changed().await.is_err() {
                    return Ok(None);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::{EventId, NewEvent, RoundClosed};
    use dissent_domain::log::{Append, ExpectedVersion};
    use dissent_storage::MemoryLog;

    use super::*;

    fn closed(experiment: &str, round: u32) -> Append {
        let id = EventId::of_experiment(&ExperimentId::new(experiment).unwrap()).caused("test", round);
        let event = NewEvent::new(id, None, "test", 0, &RoundClosed { round }.into()).unwrap();
        let experiment = ExperimentId::new(experiment).unwrap();
        Append { experiment, expected: ExpectedVersion::Any, events: vec![event] }
    }

    #[tokio::test]
    async fn history_follows_the_log_from_a_version_as_it_grows() {
        let log = Arc::new(MemoryLog::new());
        for round in 0..3 {
            log.append(closed("a", round)).await.unwrap();
            log.append(closed("b", round)).await.unwrap();
        }
        let mut history = LogHistory::after(log.clone(), ExperimentId::new("a").unwrap(), 1);
        for version in [2, 3] {
            assert_eq!(history.next().await.unwrap().unwrap().version, version);
        }
        let (next, ()) = tokio::join!(history.next(), async {
            log.append(closed("b", 3)).await.unwrap();
            log.append(closed("a", 3)).await.unwrap();
        });
        assert_eq!(next.unwrap().unwrap().version, 4);
    }
}
