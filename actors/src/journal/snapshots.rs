//! Snapshots as the history grows and at the end of a run, so that the next start need not fold all of it.
//!
//! Snapshots come from the log. The state of the journal may be ahead of the disk, and a copy of it would
//! delay decisions.

use std::sync::Arc;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_storage::Snapshots;
use tokio::sync::watch;

use crate::error::chain;
use crate::state::progress::Progress;

/// Writes the snapshots of one experiment.
#[derive(Clone)]
pub(crate) struct SnapshotWriter {
    pub(crate) snapshots: Snapshots,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) experiment: ExperimentId,
}

impl SnapshotWriter {
    /// Writes a snapshot after every `every` events, until it is aborted.
    pub(crate) fn run(
        self,
        mut progress: watch::Receiver<Progress>,
        every: u64,
    ) -> impl Future<Output = ()> + Send {
        let mut kept_at = progress.borrow().events;
        async move {
            loop {
                let due = kept_at.saturating_add(every);
                match progress.wait_for(|progress| progress.events >= due).await {
                    Ok(progress) => kept_at = progress.events,
                    Err(_) => return,
                }
                self.write().await;
            }
        }
    }

    /// Writes a snapshot of all durable events, if any follow the last snapshot. A failure is only logged:
    /// the next start then takes longer.
    pub(crate) async fn write(&self) {
        let Self { snapshots, log, experiment } = self.clone();
        let kept =
            tokio::task::spawn_blocking(move || snapshots.resume(&*log, &experiment, 0).map(drop)).await;
        let failed = kept.map_err(|error| chain(&error)).and_then(|kept| kept.map_err(|error| chain(&error)));
        if let Err(error) = failed {
            tracing::warn!(%error, "failed to write a snapshot");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dissent_domain::event::{EventId, NewEvent, RoundClosed};
    use dissent_domain::log::{Append, ExpectedVersion};
    use dissent_storage::MemoryLog;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn append(log: &MemoryLog, experiment: &ExperimentId, round: u32) {
        let id = EventId::of_experiment(experiment).caused("test", round);
        let event = NewEvent::new(id, None, "test", 0, &RoundClosed { round }.into()).unwrap();
        let (experiment, expected) = (experiment.clone(), ExpectedVersion::Any);
        log.append(Append { experiment, expected, events: vec![event] }).await.unwrap();
    }

    #[tokio::test]
    async fn a_snapshot_is_written_every_n_events_and_on_demand() {
        let (log, folder) = (Arc::new(MemoryLog::new()), tempfile::tempdir().unwrap());
        let experiment = ExperimentId::new("a").unwrap();
        let snapshots = Snapshots::new(folder.path());
        let writer =
            SnapshotWriter { snapshots: snapshots.clone(), log: log.clone(), experiment: experiment.clone() };
        let (progress, progressed) = watch::channel(Progress::default());
        let running = tokio::spawn(writer.clone().run(progressed, 2));
        let kept = || snapshots.load(&*log, &experiment).unwrap().map(|snapshot| snapshot.version);
        for round in 0..3 {
            append(&log, &experiment, round).await;
        }
        progress.send_replace(Progress { events: 1, ..Progress::default() });
        tokio::task::yield_now().await;
        assert_eq!(kept(), None);
        progress.send_replace(Progress { events: 2, ..Progress::default() });
        let polled = async {
            while kept().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, polled).await.unwrap();
        assert_eq!(kept(), Some(3), "it holds all durable events");
        append(&log, &experiment, 3).await;
        writer.write().await;
        assert_eq!(kept(), Some(4));
        running.abort();
    }
}
