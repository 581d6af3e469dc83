//! The default folder of a backup.

use std::path::{Path, PathBuf};

use dissent_actors::now_us;

use crate::text::utc;

/// Beginning of the name of an unfinished backup.
const UNFINISHED: &str = ".backup-";

/// Removes unfinished backups of processes that ended meanwhile. Only the process with the event log calls
/// it, and no other one makes backups in the data folder.
pub(crate) fn remove_unfinished(data_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(data_dir.join("backups")) else { return };
    for entry in entries.filter_map(Result::ok) {
        if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unfinished_backups_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        remove_unfinished(dir.path());
        for name in [".backup-x1", "2026-01-01", "notes"] {
            std::fs::create_dir_all(dir.path().join("backups").join(name).join("log")).unwrap();
        }
        remove_unfinished(dir.path());
        let left = std::fs::read_dir(dir.path().join("backups")).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["2026-01-01", "notes"]);
    }
}
