//! The default folder of a backup.

use std::path::{Path, PathBuf};

use dissent_actors::now_us;

use crate::text::utc;

/// Returns a folder that does not exist yet, below `backups` in the data folder and named by the time.
pub(crate) fn new_folder(data_dir: &Path) -> PathBuf {
    let name: String =
        utc(now_us()).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let folder = data_dir.join("backups");
    let first = folder.join(&name);
    let numbered = (2_u32..).map(|number| folder.join(format!("{name}-{number}")));
    std::iter::once(first).chain(numbered).find(|path| !path.exists()).unwrap_or(folder)
}
