//! Snapshots as the history grows and when it rests, so that the next start need not fold all of it.
//!
//! They are made of what is in the log, beside the journal and not of its state: that may be ahead of the disk, and copying it
//! would hold up decisions.

use std::sync::Arc;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_storage::Snapshots;
use tokio::sync::watch;

use crate::progress::Progress;

/// Keeps the snapshots of one experiment.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) snapshots: Snapshots,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) experiment: ExperimentId,
}

impl Keeper {
    /// Keeps a snapshot after every so many events, until it is aborted.
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
                self.keep().await;
            }
        }
    }

    /// Keeps a snapshot of all that is durable, if anything has followed the last one. Without it the next start takes longer,
    /// and that is all: what goes wrong is only worth a warning.
    pub(crate) async fn keep(&self) {
        let Self { snapshots, log, experiment } = self.clone();
        let kept =
            tokio::task::spawn_blocking(move || snapshots.resume(&*log, &experiment, 0).map(drop)).await;
        let failed =
            kept.map_err(|error| error.to_string()).and_then(|kept| kept.map_err(|error| error.to_string()));
        if let Err(error) = failed {
            tracing::warn!(%error, "a snapshot could not be made");
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
    async fn a_snapshot_is_kept_after_every_so_many_events_and_on_demand() {
        let (log, folder) = (Arc::new(MemoryLog::new()), tempfile::tempdir().unwrap());
        let experiment = ExperimentId::new("a").unwrap();
        let snapshots = Snapshots::new(folder.path());
        let keeper =
            Keeper { snapshots: snapshots.clone(), log: log.clone(), experiment: experiment.clone() };
        let (progress, progressed) = watch::channel(Progress::default());
        let running = tokio::spawn(keeper.clone().run(progressed, 2));
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
        assert_eq!(kept(), Some(3), "all that is durable is in it");
        append(&log, &experiment, 3).await;
        keeper.keep().await;
        assert_eq!(kept(), Some(4));
        running.abort();
    }
}
