//! The state that readers and the writer share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use dissent_domain::error::chain;
use dissent_domain::event::{EventId, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{AdvanceListener, LogError};

use super::error::guarded;
use super::ids::Ids;
use super::reader::Reader;

/// The state of readers and the writer.
pub(super) struct Shared {
    pub(super) reader: Reader,
    pub(super) ids: Ids,
    /// The last durable position.
    pub(super) head: AtomicU64,
    /// The last durable version of each stream.
    pub(super) streams: RwLock<BTreeMap<ExperimentId, u64>>,
    pub(super) cursors: Mutex<Cursors>,
    pub(super) listeners: RwLock<Vec<AdvanceListener>>,
    /// The error that stopped all writes.
    pub(super) failure: Mutex<Option<LogError>>,
}

#[derive(Default)]
pub(super) struct Cursors {
    pub(super) records: BTreeMap<String, Vec<u8>>,
    /// Names of cursors that are newer than the disk.
    pub(super) dirty: BTreeSet<String>,
}

impl Shared {
    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    pub(super) fn cursors(&self) -> MutexGuard<'_, Cursors> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn version(&self, experiment: &ExperimentId) -> u64 {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(experiment).copied().unwrap_or(0)
    }

    /// Returns the event with this id, if its position is at most `head`.
    pub(super) fn find(&self, id: EventId, head: u64) -> Result<Option<Recorded>, LogError> {
        guarded(|| self.ids.find(&self.reader, id, head))
    }

    /// Makes durable events visible to readers.
    pub(super) fn advance(&self, head: u64, versions: &HashMap<ExperimentId, u64>) {
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        for (experiment, version) in versions {
            streams.insert(experiment.clone(), *version);
        }
        drop(streams);
        self.head.store(head, Ordering::Release);
    }

    pub(super) fn announce(&self, head: u64) {
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(head);
        }
    }

    pub(super) fn failure(&self) -> Option<LogError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn fail(&self, error: &LogError) {
        tracing::error!(error = %chain(error), "stopping appends to the event log");
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }
}
