//! The configurations that a data folder keeps. A server runs its experiments from them, without being told.
//!
//! `experiments/NAME.json` holds the configuration of an experiment, and `experiments/NAME.halted.json` the
//! reason why the server halted it. Neither is part of the history: the plan in the log decides.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::ConfigSource;
use crate::files;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why and when a server halted an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Halt {
    /// The failure.
    pub(crate) reason: String,
    /// Microseconds since 1970 UTC.
    pub(crate) at_us: u64,
}

/// The kept configurations of a data folder.
#[derive(Debug, Clone)]
pub(crate) struct KeptConfigs {
    folder: PathBuf,
}

impl KeptConfigs {
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("experiments") }
    }

    /// Keeps the configuration of an experiment, in place of an earlier one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn keep(&self, experiment: &ExperimentId, source: &ConfigSource) -> anyhow::Result<()> {
        if self.find(experiment).ok().flatten().as_ref() == Some(source) {
            return Ok(());
        }
        files::write_in_data_folder(serde_json::to_vec_pretty(source)?, &self.path(experiment, "json"))
    }

    /// Returns the kept configuration of an experiment, if there is one.
    ///
    /// # Errors
    /// If the file cannot be read, or is damaged.
    pub(crate) fn find(&self, experiment: &ExperimentId) -> anyhow::Result<Option<ConfigSource>> {
        read(&self.path(experiment, "json"))
    }

    /// Keeps the reason why an experiment is halted.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn halt(&self, experiment: &ExperimentId, halt: &Halt) -> anyhow::Result<()> {
        files::write_in_data_folder(serde_json::to_vec_pretty(halt)?, &self.path(experiment, "halted.json"))
    }

    /// Returns why an experiment is halted; `None` if it is not.
    ///
    /// # Errors
    /// If the file cannot be read, or is damaged.
    pub(crate) fn halted(&self, experiment: &ExperimentId) -> anyhow::Result<Option<Halt>> {
        read(&self.path(experiment, "halted.json"))
    }

    /// Forgets that an experiment was halted.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub(crate) fn go_on(&self, experiment: &ExperimentId) -> anyhow::Result<()> {
        let path = self.path(experiment, "halted.json");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failed to remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, experiment: &ExperimentId, extension: &str) -> PathBuf {
        self.folder.join(format!("{experiment}.{extension}"))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let failed = || format!("failed to read {}", path.display());
    let bytes = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.with_context(failed)?.len(),
    };
    anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{}: {bytes} bytes exceed {FILE_BYTES_MAX}", failed());
    let text = std::fs::read(path).with_context(failed)?;
    serde_json::from_slice(&text).map(Some).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_and_halts_are_kept_until_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let kept = KeptConfigs::of(folder.path());
        let name = ExperimentId::new("a.b").unwrap();
        assert_eq!(kept.find(&name).unwrap(), None);
        assert_eq!(kept.halted(&name).unwrap(), None);
        kept.go_on(&name).unwrap();
        let source = ConfigSource { text: "x".into(), folder: "/f".into(), overrides: vec!["a=1".into()] };
        kept.keep(&name, &source).unwrap();
        assert_eq!(kept.find(&name).unwrap(), Some(source));
        let halt = Halt { reason: "no disk".into(), at_us: 3 };
        kept.halt(&name, &halt).unwrap();
        assert_eq!(kept.halted(&name).unwrap(), Some(halt));
        kept.go_on(&name).unwrap();
        assert_eq!(kept.halted(&name).unwrap(), None);
        std::fs::write(folder.path().join("experiments/a.b.json"), "{").unwrap();
        let error = format!("{:#}", kept.find(&name).unwrap_err());
        assert!(error.contains("a.b.json"), "{error}");
    }
}
