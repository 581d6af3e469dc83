//! Where the product keeps what it can make or fetch again.

use std::path::{Path, PathBuf};

/// The cache folder: `$DISSENT_CACHE`, else `$XDG_CACHE_HOME/dissent`, else `~/.cache/dissent`; `None` when
/// none of the variables (nor `HOME`) is set. The folder need not exist.
///
/// In it: `onnxruntime/VERSION/` (the runtime), `models/` (fetched models), `dequantised/` (weights of
/// quantised models) and `fingerprints/` (hashes of files that were hashed before).
#[must_use]
pub fn cache_dir() -> Option<PathBuf> {
    from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn from_variables(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("DISSENT_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("dissent")))
        .or_else(|| Some(variable("HOME")?.join(".cache").join("dissent")))
}

/// Where fetched models lie.
#[must_use]
pub fn models_dir(cache: &Path) -> PathBuf {
    cache.join("models")
}

/// Where the dequantised weights of GGUF files lie.
#[must_use]
pub fn dequantised_dir(cache: &Path) -> PathBuf {
    cache.join("dequantised")
}

/// Where the hashes of large files are remembered.
#[must_use]
pub fn fingerprints_dir(cache: &Path) -> PathBuf {
    cache.join("fingerprints")
}
