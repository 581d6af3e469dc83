//! The inbox of judgements that are imported while a run has the event log open: a folder that the run polls.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dissent_domain::event::FeedbackReceived;
use dissent_domain::id::ExperimentId;

/// Returns the inbox of an experiment. Each file that ends in `.jsonl` is complete and holds one
/// [`FeedbackReceived`] per line. Other files are unfinished.
#[must_use]
pub(crate) fn folder(data_dir: &Path, experiment: &ExperimentId) -> PathBuf {
    data_dir.join("feedback-inbox").join(experiment.as_str())
}

/// Writes judgements to the inbox and returns their file. The same judgements twice make one file.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn put(
    data_dir: &Path,
    experiment: &ExperimentId,
    judgements: &[FeedbackReceived],
) -> io::Result<PathBuf> {
    let folder = folder(data_dir, experiment);
    std::fs::create_dir_all(&folder)?;
    let mut lines = Vec::new();
    for judgement in judgements {
        serde_json::to_writer(&mut lines, judgement)?;
        lines.push(b'\n');
    }
    let name = blake3::hash(&lines).to_hex();
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o640))
        .prefix(".")
        .suffix(".partial")
        .tempfile_in(&folder)?;
    io::Write::write_all(&mut file, &lines)?;
    file.as_file().sync_all()?;
    let path = folder.join(format!("{name}.jsonl"));
    file.persist(&path).map_err(|error| error.error)?;
    Ok(path)
}
