//! Judgements that came while a run had the event log open: whole files in a folder that the run looks into.

use std::io;
use std::path::{Path, PathBuf};

use dissent_domain::event::FeedbackReceived;
use dissent_domain::id::ExperimentId;

/// Where the judgements for an experiment wait. Each file ending in `.jsonl` holds one [`FeedbackReceived`] a
/// line, and appears whole; other files are not finished.
#[must_use]
pub(crate) fn folder(data_dir: &Path, experiment: &ExperimentId) -> PathBuf {
    data_dir.join("feedback-inbox").join(experiment.as_str())
}

/// Leaves judgements for the process that has the log open. The same ones twice make one file.
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
    let mut file = tempfile::Builder::new().prefix(".").suffix(".partial").tempfile_in(&folder)?;
    io::Write::write_all(&mut file, &lines)?;
    file.as_file().sync_all()?;
    let path = folder.join(format!("{name}.jsonl"));
    file.persist(&path).map_err(|error| error.error)?;
    Ok(path)
}
