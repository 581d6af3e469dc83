//! The default folder of a backup.

use std::path::{Path, PathBuf};

use dissent_actors::now_us;
use dissent_domain::log::LogError;
use dissent_storage::accounts::{self, Accounts};
use dissent_storage::{SledLog, UNFINISHED_BACKUP};

use crate::text::utc;

/// Removes unfinished backups of processes that have ended. Only the process with the event log may call it:
/// no other one makes backups of it.
pub(crate) fn remove_unfinished(data_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(data_dir.join("backups")) else { return };
    for entry in entries.filter_map(Result::ok) {
        if !entry.file_name().to_string_lossy().starts_with(UNFINISHED_BACKUP) {
            continue;
        }
        let path = entry.path();
        match std::fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed an unfinished backup"),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "failed to remove an unfinished backup");
            }
        }
    }
}

/// Copies the log of a data folder, and its accounts if it has any, to a new folder. Returns the number of
/// events.
///
/// # Errors
/// If the folder exists, or a copy fails.
pub(crate) fn make(log: &SledLog, data_dir: &Path, to: &Path) -> Result<u64, LogError> {
    let events = log.backup(to)?;
    let path = data_dir.join(accounts::FILE);
    if path.exists() {
        let copied = Accounts::open(&path).and_then(|accounts| accounts.backup(to));
        let failed = |error| LogError::io("failed to copy the accounts", std::io::Error::other(error));
        copied.map_err(failed)?;
    }
    Ok(events)
}

/// Returns a folder that does not exist yet, below `backups` in the data folder and named by the time.
pub(crate) fn new_folder(data_dir: &Path) -> PathBuf {
    let name: String =
        utc(now_us()).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let folder = data_dir.join("backups");
    let first = folder.join(&name);
    let numbered = (2_u32..).map(|number| folder.join(format!("{name}-{number}")));
    std::iter::once(first).chain(numbered).find(|path| !path.exists()).unwrap_or(folder)
}
