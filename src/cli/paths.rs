//! Paths of a data folder, and their form in messages.

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};
use dissent_domain::id::ExperimentId;

use crate::config::resolve;
use crate::text::shell_word;

/// Default data folder, which holds the event log and the artifacts.
const DATA_DIR: &str = ".dissent";

/// Returns the given data folder, or the default one.
pub(crate) fn data_dir(given: Option<&Path>) -> PathBuf {
    given.unwrap_or(Path::new(DATA_DIR)).to_owned()
}

/// Returns the option that names this data folder in a suggested command; empty for the default folder.
pub(crate) fn data_option(data_dir: &Path) -> String {
    let short = shortened(data_dir);
    if short == Path::new(DATA_DIR) {
        return String::new();
    }
    format!(" --data-dir {}", shell_word(&short.to_string_lossy()))
}

/// Returns the canonical path, relative to the working folder if it lies below that.
pub(crate) fn shortened(path: &Path) -> PathBuf {
    let Ok(path) = path.canonicalize() else { return path.to_owned() };
    let here = std::env::current_dir().unwrap_or_default();
    // The working folder itself keeps its whole path.
    let below = path.strip_prefix(here).ok().filter(|below| *below != Path::new(""));
    below.map(Path::to_owned).unwrap_or(path)
}

/// Returns the path of an experiment's report in a data folder.
pub(crate) fn report_path(data_dir: &Path, experiment: &ExperimentId) -> PathBuf {
    data_dir.join("reports").join(format!("{experiment}.html"))
}

/// Whether a path is `-`, which names stdin or stdout.
pub(crate) fn is_stream(path: &Path) -> bool {
    path == Path::new("-")
}

/// Returns the parser of an option that takes a path. `cache:` and `~/` mean what they mean in a
/// configuration.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| resolve(&path, Path::new("")))
}

/// Path of a file, or `-` for stdin or stdout.
pub(crate) type FileOrStream = PathBuf;
