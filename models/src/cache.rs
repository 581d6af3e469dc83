//! The cache folder, for files that can be rebuilt or fetched again.

use std::path::{Path, PathBuf};

/// Returns the cache folder: `$DISSENT_CACHE`, else `$XDG_CACHE_HOME/dissent`, else `~/.cache/dissent`.
///
/// `None` if neither these variables nor `HOME` are set. The folder need not exist. It holds
/// `onnxruntime/VERSION/` (the runtime), `models/` (fetched models), `dequantised/` (weights of quantised
/// models), `packed/` (weights in blocks of integers) and `fingerprints/` (hashes of files).
#[must_use]
pub fn cache_dir() -> Option<PathBuf> {
    from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn from_variables(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("DISSENT_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("dissent")))
        .or_else(|| Some(variable("HOME")?.join(".cache").join("dissent")))
}

/// Returns the folder of fetched models.
#[must_use]
pub fn models_dir(cache: &Path) -> PathBuf {
    cache.join("models")
}

/// Returns the folder of the dequantised weights of GGUF files.
#[must_use]
pub fn dequantised_dir(cache: &Path) -> PathBuf {
    cache.join("dequantised")
}

/// Returns the folder of weights in blocks of integers, for generation.
#[must_use]
pub fn packed_dir(cache: &Path) -> PathBuf {
    cache.join("packed")
}

/// Returns the folder of the hashes of large files.
#[must_use]
pub fn fingerprints_dir(cache: &Path) -> PathBuf {
    cache.join("fingerprints")
}
