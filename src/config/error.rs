//! Errors of a configuration, split by the caller's options.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration {}", file.display())]
    Read {
        /// The file, as given.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The text is not TOML, a key is unknown, or a value has a wrong type. The message quotes the line.
    #[error("{}", .0.to_string().trim_end())]
    Toml(Box<toml::de::Error>),
    /// A key or section is invalid.
    #[error("{reason}")]
    Key {
        /// The key, such as `generation.top_p`, or the section in brackets.
        key: String,
        /// The kind of the problem, for code.
        kind: KeyErrorKind,
        /// The key, its value, the problem and the way out, for people.
        reason: String,
        /// The error behind it, if there is one.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

/// The kinds of [`ConfigError::Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyErrorKind {
    /// A value is outside its range.
    OutOfRange,
    /// A key or section is missing that another one needs.
    Missing,
    /// Two keys exclude each other.
    Exclusive,
    /// A key or section has no effect beside the others.
    NoEffect,
    /// A template is invalid.
    Template,
    /// A path cannot be resolved, or its file cannot be read.
    Path,
    /// The address of RabbitMQ is missing or invalid.
    Address,
}

impl ConfigError {
    pub(super) fn key(key: impl Into<String>, kind: KeyErrorKind, reason: impl Into<String>) -> Self {
        Self::Key { key: key.into(), kind, reason: reason.into(), source: None }
    }

    pub(super) fn key_because(
        key: impl Into<String>,
        kind: KeyErrorKind,
        reason: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Key { key: key.into(), kind, reason: reason.into(), source: Some(source.into()) }
    }

    /// A value outside its range. `way_out` names the range, such as `use 1 to 64`.
    pub(super) fn out_of_range(key: &str, value: impl Display, way_out: impl Display) -> Self {
        Self::key(key, KeyErrorKind::OutOfRange, format!("{key} = {value}: {way_out}"))
    }

    pub(super) fn read(file: &Path, source: io::Error) -> Self {
        Self::Read { file: file.to_owned(), source }
    }

    /// Returns the invalid key or section, and the kind of the problem.
    #[must_use]
    pub fn invalid_key(&self) -> Option<(&str, KeyErrorKind)> {
        match self {
            Self::Key { key, kind, .. } => Some((key, *kind)),
            Self::Read { .. } | Self::Toml(_) => None,
        }
    }
}

impl From<toml::de::Error> for ConfigError {
    fn from(error: toml::de::Error) -> Self {
        Self::Toml(Box::new(error))
    }
}
