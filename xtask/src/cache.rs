//! Dissent's cache folder, by the same rule as `dissent_models::cache_dir`. A dependency on that crate
//! would make a newcomer's first command compile the whole model stack.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Returns the absolute path of the cache folder, and creates a missing one. The folder is
/// `$DISSENT_CACHE`, `$XDG_CACHE_HOME/dissent` or `~/.cache/dissent`: the first whose variable is set.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let folder =
        from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
            .context("no cache folder: set DISSENT_CACHE (or HOME) to a folder that can be written")?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create the cache folder {}", folder.display()))?;
    std::path::absolute(&folder)
        .with_context(|| format!("failed to resolve the cache folder {}", folder.display()))
}

fn from_variables(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("DISSENT_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("dissent")))
        .or_else(|| Some(variable("HOME")?.join(".cache").join("dissent")))
}

/// Returns the root of the workspace, in which `cargo xtask` runs its commands.
pub(crate) fn workspace_dir() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let xtask = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    xtask.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Returns Cargo's output folder.
pub(crate) fn target_dir() -> PathBuf {
    let chosen = std::env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty());
    workspace_dir().join(chosen.map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(set: &[(&str, &str)]) -> Option<PathBuf> {
        from_variables(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
    }

    #[test]
    fn the_most_specific_variable_names_the_cache() {
        let all = [("DISSENT_CACHE", "/d"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(resolved(&all), Some(PathBuf::from("/d")));
        assert_eq!(resolved(&all[1..]), Some(PathBuf::from("/x/dissent")));
        assert_eq!(resolved(&all[2..]), Some(PathBuf::from("/h/.cache/dissent")));
        assert_eq!(resolved(&[]), None);
    }
}
