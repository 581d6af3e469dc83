//! An artifact store that stalls.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dissent_storage::{ArtifactId, StorageError};
use tokio::time::timeout;

use crate::journal::artifact_check::ReadArtifacts;

/// Longest wait for the first read.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store whose readers wait until it is opened.
pub(crate) struct StallingStore {
    state: Mutex<State>,
    opened: Condvar,
    inner: Box<dyn ReadArtifacts>,
}

#[derive(Default)]
struct State {
    is_open: bool,
    reading: usize,
    reading_max: usize,
}

impl StallingStore {
    /// A store that stalls before it answers as `inner` does.
    pub(crate) fn closed(inner: impl ReadArtifacts + 'static) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), opened: Condvar::new(), inner: Box::new(inner) })
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().is_open = true;
        self.opened.notify_all();
    }

    pub(crate) fn close(&self) {
        self.state.lock().unwrap().is_open = false;
    }

    /// The number of readers that wait now.
    pub(crate) fn reading(&self) -> usize {
        self.state.lock().unwrap().reading
    }

    /// The largest number of readers that waited at once.
    pub(crate) fn reading_max(&self) -> usize {
        self.state.lock().unwrap().reading_max
    }

    /// Waits until this many readers are stalled.
    pub(crate) async fn stalls(&self, readers: usize) {
        let stalled = async {
            while self.reading() < readers {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, stalled).await.expect("the journal reads the store");
    }

    fn wait(&self) {
        let mut state = self.state.lock().unwrap();
        state.reading += 1;
        state.reading_max = state.reading_max.max(state.reading);
        let mut state = self.opened.wait_while(state, |state| !state.is_open).unwrap();
        state.reading -= 1;
    }
}

impl ReadArtifacts for StallingStore {
    fn is_kept(&self, id: &ArtifactId) -> Result<bool, StorageError> {
        self.wait();
        self.inner.is_kept(id)
    }

    fn read(&self, id: &ArtifactId, bytes_max: u64) -> Result<Vec<u8>, StorageError> {
        self.wait();
        self.inner.read(id, bytes_max)
    }
}

/// A store that has every artifact, or lacks every artifact.
pub(crate) struct Keeps(pub(crate) bool);

impl ReadArtifacts for Keeps {
    fn is_kept(&self, _: &ArtifactId) -> Result<bool, StorageError> {
        Ok(self.0)
    }

    fn read(&self, id: &ArtifactId, _: u64) -> Result<Vec<u8>, StorageError> {
        if self.0 { Ok(Vec::new()) } else { Err(StorageError::ArtifactMissing(*id)) }
    }
}
