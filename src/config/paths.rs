//! Paths in a configuration or an option.

use std::path::{Path, PathBuf};

use super::{ConfigError, KeyErrorKind};

/// Resolves `cache:`, `~/` and relative paths, which start at `folder`.
///
/// # Errors
/// If the path starts at the cache or home folder, which is not set.
pub fn resolve(path: &Path, folder: &Path) -> Result<PathBuf, ConfigError> {
    let text = path.to_string_lossy();
    let not_set = |folder: &str, variable: &str| {
        let reason = format!("{text}: no {folder} folder is set: set {variable}");
        ConfigError::key(text.as_ref(), KeyErrorKind::Path, reason)
    };
    if let Some(rest) = text.strip_prefix("cache:") {
        let cache = dissent_models::cache::cache_dir().ok_or_else(|| not_set("cache", "DISSENT_CACHE"))?;
        Ok(cache.join(rest))
    } else if let Some(rest) = text.strip_prefix("~/") {
        let home = std::env::var_os("HOME").ok_or_else(|| not_set("home", "HOME"))?;
        Ok(PathBuf::from(home).join(rest))
    } else {
        Ok(folder.join(path))
    }
}
