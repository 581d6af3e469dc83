//! Opens the event log of a data folder.

use std::path::{Path, PathBuf};

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_storage::{SledLog, SledOptions};

use super::copies::{self, ReadLog};
use crate::error::BadInput;

/// Where the event log lies in a data folder.
pub(crate) fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

/// Opens the event log of a data folder to read it: a copy, if another process has it.
pub(crate) fn read_log(data_dir: &Path) -> anyhow::Result<ReadLog> {
    copies::open(data_dir, &existing_log_dir(data_dir)?)
}

/// Opens the event log of a data folder that should have one.
pub(crate) fn open_log(data_dir: &Path) -> anyhow::Result<SledLog> {
    Ok(SledLog::open(existing_log_dir(data_dir)?, &SledOptions::default())?)
}

/// The folder of an event log that is there.
pub(crate) fn existing_log_dir(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = log_dir(data_dir);
    if !dir.is_dir() {
        let reason =
            format!("there is no event log in {}: name its folder with --data-dir", data_dir.display());
        return Err(BadInput(reason).into());
    }
    Ok(dir)
}

/// Refuses an experiment that the log does not have, and says which it has.
pub(crate) fn require_experiment(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<()> {
    let streams = log.streams()?;
    if streams.iter().any(|(name, _)| name == experiment) {
        return Ok(());
    }
    let names: Vec<&str> = streams.iter().map(|(name, _)| name.as_str()).collect();
    let known = if names.is_empty() { "the log is empty".to_owned() } else { names.join(", ") };
    Err(BadInput(format!("there is no experiment {experiment} in the log: {known}")).into())
}
