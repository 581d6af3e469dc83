//! The audit trail of a server, written in the background.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use dissent_storage::accounts::{Accounts, AuditEntry};

/// Entries that wait to be written. More are dropped, with a warning.
const WAITING_MAX: usize = 4096;
/// Entries of one write.
const BATCH_MAX: usize = 512;
/// Time in which entries come together to one write.
const GATHER: Duration = Duration::from_millis(200);

/// Writes entries in the background, so that no request waits for a write to the disk.
#[derive(Debug, Clone)]
pub(crate) struct AuditTrail(SyncSender<AuditEntry>);

impl AuditTrail {
    /// Starts the thread that writes. It ends with the last clone.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start(accounts: Accounts) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<AuditEntry>(WAITING_MAX);
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || {
            while let Ok(first) = receiver.recv() {
                std::thread::sleep(GATHER);
                let mut entries = vec![first];
                entries.extend(receiver.try_iter().take(BATCH_MAX - 1));
                if let Err(error) = accounts.record(&entries) {
                    tracing::error!(%error, entries = entries.len(), "failed to write the audit trail");
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// Adds an entry.
    pub(crate) fn note(&self, entry: AuditEntry) {
        if let Err(TrySendError::Full(entry)) = self.0.try_send(entry) {
            let AuditEntry { action, object, .. } = entry;
            tracing::warn!(action, object, "the audit trail is full: dropped an entry");
        }
    }
}
