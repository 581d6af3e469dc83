//! Where backups of a data folder's log are put if nobody says where.

use std::path::{Path, PathBuf};

use dissent_actors::now_us;

use crate::text::utc;

/// A folder that does not exist yet, named by the time.
pub(crate) fn new_folder(data_dir: &Path) -> PathBuf {
    let name: String =
        utc(now_us()).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let folder = data_dir.join("backups");
    let first = folder.join(&name);
    let later = (2_u32..).map(|number| folder.join(format!("{name}-{number}")));
    std::iter::once(first).chain(later).find(|path| !path.exists()).unwrap_or(folder)
}
