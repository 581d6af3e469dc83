//! A configuration as it was given: its text, the folder of its relative paths, and values in place of its
//! own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::overrides::{self, Override};
use super::{Config, ConfigError, KeyErrorKind};

/// A configuration that can be read again, also by another process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigSource {
    /// The text of the file.
    pub(crate) text: String,
    /// The folder at which relative paths start.
    pub(crate) folder: PathBuf,
    /// Values in place of those of the file, `KEY=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) overrides: Vec<String>,
}

impl ConfigSource {
    /// Reads a file.
    ///
    /// # Errors
    /// If the file or its folder cannot be read.
    pub(crate) fn read(path: &Path, overrides: &[Override]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::read(path, source))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let folder = folder.canonicalize().map_err(|source| ConfigError::read(path, source))?;
        Ok(Self { text, folder, overrides: overrides.iter().map(Override::to_string).collect() })
    }

    /// Returns the configuration with further values in place of its own.
    #[must_use]
    pub(crate) fn with(&self, more: impl IntoIterator<Item = String>) -> Self {
        let overrides = self.overrides.iter().cloned().chain(more).collect();
        Self { overrides, ..self.clone() }
    }

    /// Parses and checks the configuration.
    ///
    /// # Errors
    /// As [`Config::load_with`].
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        let mut config = self.unresolved()?;
        config.resolve_paths(&self.folder)?;
        Ok(config)
    }

    /// Parses and checks the configuration, and keeps its paths as written.
    ///
    /// # Errors
    /// As [`ConfigSource::load`].
    pub(crate) fn unresolved(&self) -> Result<Config, ConfigError> {
        let of_text = |text: &String| {
            let invalid = |reason| ConfigError::key(text, KeyErrorKind::OutOfRange, reason);
            text.parse::<Override>().map_err(invalid)
        };
        let overrides: Vec<Override> = self.overrides.iter().map(of_text).collect::<Result<_, _>>()?;
        let config: Config = overrides::parse(&self.text, &overrides)?;
        config.validate()?;
        Ok(config)
    }
}
