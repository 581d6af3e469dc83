//! Paths in a configuration or an option.

use std::path::{Path, PathBuf};

use crate::error::BadInput;

/// Resolves `cache:`, `~/` and relative paths, which start at `folder`.
///
/// # Errors
/// If the path starts at the cache or home folder, which is not set.
pub fn resolve(path: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let none =
        |what: &str, set: &str| BadInput(format!("{}: no {what} folder is set; set {set}", path.display()));
    let text = path.to_string_lossy();
    if let Some(rest) = text.strip_prefix("cache:") {
        let cache = dissent_models::cache::cache_dir().ok_or_else(|| none("cache", "DISSENT_CACHE"))?;
        Ok(cache.join(rest))
    } else if let Some(rest) = text.strip_prefix("~/") {
        let home = std::env::var_os("HOME").ok_or_else(|| none("home", "HOME"))?;
        Ok(PathBuf::from(home).join(rest))
    } else {
        Ok(folder.join(path))
    }
}
