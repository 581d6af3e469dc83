//! Paths of a data folder, and how messages show them.

use std::path::{Path, PathBuf};

use dissent_domain::id::ExperimentId;

/// Where the event log and the artifacts are unless somebody says otherwise.
const DATA_DIR: &str = ".dissent";

/// The data folder in force.
pub(crate) fn data_dir(given: Option<&Path>) -> PathBuf {
    given.unwrap_or(Path::new(DATA_DIR)).to_owned()
}

/// The option by which a further command finds this data folder: none is needed for the usual one.
pub(crate) fn data_option(data_dir: &Path) -> String {
    let shown = shown(data_dir);
    if shown == Path::new(DATA_DIR) { String::new() } else { format!(" --data-dir {}", shown.display()) }
}

/// As short as it can be said from where the user is, and without the detours of a configuration's paths.
pub(crate) fn shown(path: &Path) -> PathBuf {
    let Ok(path) = path.canonicalize() else { return path.to_owned() };
    let here = std::env::current_dir().unwrap_or_default();
    // Where the user is needs a name, too.
    let below = path.strip_prefix(here).ok().filter(|below| *below != Path::new(""));
    below.map(Path::to_owned).unwrap_or(path)
}

/// Where the report of an experiment lies in a data folder.
pub(crate) fn report_path(data_dir: &Path, experiment: &ExperimentId) -> PathBuf {
    data_dir.join("reports").join(format!("{experiment}.html"))
}

/// The path that stands for stdin or stdout.
pub(crate) fn is_stream(path: &Path) -> bool {
    path == Path::new("-")
}

/// A file, or `-`.
pub(crate) type FileOrStream = PathBuf;
