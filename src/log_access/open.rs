//! Opens the event log of a data folder.

use std::path::{Path, PathBuf};

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_storage::{SledLog, SledOptions};

use super::copies::{self, ReadLog};
use crate::error::BadInput;

/// Returns the folder of the event log in a data folder.
pub(crate) fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

/// Opens the event log of a data folder for reading, or a copy if another process has the log open.
pub(crate) fn read_log(data_dir: &Path) -> anyhow::Result<ReadLog> {
    copies::open(data_dir, &existing_log_dir(data_dir)?)
}

/// Opens the event log of a data folder for reading and writing.
///
/// # Errors
/// If there is no log, or another process has it open.
pub(crate) fn open_log(data_dir: &Path) -> anyhow::Result<SledLog> {
    Ok(SledLog::open(existing_log_dir(data_dir)?, &SledOptions::default())?)
}

/// Returns the folder of the event log.
///
/// # Errors
/// [`BadInput`] if there is no log.
pub(crate) fn existing_log_dir(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = log_dir(data_dir);
    if !dir.is_dir() {
        let reason = format!(
            "no event log in {}: name its data folder with --data-dir, or the experiment by its configuration",
            data_dir.display()
        );
        return Err(BadInput(reason).into());
    }
    Ok(dir)
}

/// Checks that the log has this experiment.
///
/// # Errors
/// [`BadInput`] with the names that the log has.
pub(crate) fn require_experiment(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<()> {
    let streams = log.streams()?;
    if streams.iter().any(|(name, _)| name == experiment) {
        return Ok(());
    }
    let names: Vec<&str> = streams.iter().map(|(name, _)| name.as_str()).collect();
    let content = if names.is_empty() { "is empty".to_owned() } else { format!("has {}", names.join(", ")) };
    Err(BadInput(format!("unknown experiment {experiment}: the log {content}{}", path_hint(experiment)))
        .into())
}

/// Returns the end of an error about an unknown name that may have been meant as the path of a configuration;
/// empty for other names.
pub(crate) fn path_hint(experiment: &ExperimentId) -> String {
    let name = experiment.as_str();
    if Path::new(name).is_file() {
        format!("; for the configuration write ./{name}")
    } else if name.to_ascii_lowercase().ends_with(".toml") {
        "; there is no such configuration either".to_owned()
    } else {
        String::new()
    }
}
