//! The default folder of a backup.

use std::path::{Path, PathBuf};

use dissent_actors::now_us;
use dissent_storage::UNFINISHED_BACKUP;

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

/// Returns a folder that does not exist yet, below `backups` in the data folder and named by the time.
pub(crate) fn new_folder(data_dir: &Path) -> PathBuf {
    let name: String =
        utc(now_us()).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let folder = data_dir.join("backups");
    let first = folder.join(&name);
    let numbered = (2_u32..).map(|number| folder.join(format!("{name}-{number}")));
    std::iter::once(first).chain(numbered).find(|path| !path.exists()).unwrap_or(folder)
}
