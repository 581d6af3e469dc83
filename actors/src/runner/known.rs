//! The part of an experiment's history that a process has.

use tokio::sync::watch;

/// The version up to which this process has the history. A step handles an event only once the history
/// reaches it.
#[derive(Debug, Clone)]
pub(crate) struct KnownHistory(Option<watch::Receiver<u64>>);

impl KnownHistory {
    /// The whole history: the journal runs in this process.
    pub(crate) fn all() -> Self {
        Self(None)
    }

    /// The history up to this growing version.
    pub(crate) fn up_to(version: watch::Receiver<u64>) -> Self {
        Self(Some(version))
    }

    /// Waits until the history reaches this version; false if it never will.
    pub(crate) async fn reaches(&self, version: u64) -> bool {
        match &self.0 {
            None => true,
            Some(known) => known.clone().wait_for(|known| *known >= version).await.is_ok(),
        }
    }
}
