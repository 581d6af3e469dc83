//! Errors of artifact stores, exports and imports.

use std::io;
use std::path::{Path, PathBuf};

use dissent_domain::error::Cause;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::LogError;

use crate::artifact::{ArtifactId, InvalidArtifactName};

/// An error of an artifact store, an export or an import.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file operation failed.
    #[error("failed to {action} {path}")]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Not a name of an artifact.
    #[error(transparent)]
    ArtifactName(#[from] InvalidArtifactName),
    /// The artifact does not exist.
    #[error("artifact {0} does not exist")]
    ArtifactMissing(ArtifactId),
    /// The artifact's bytes do not match its name.
    #[error("artifact {id} at {path} is damaged: {reason}; store it again from its source")]
    ArtifactDamaged {
        /// Its name.
        id: ArtifactId,
        /// Its file.
        path: PathBuf,
        /// The kind of damage.
        reason: String,
    },
    /// The URL is not valid for a shared store.
    #[error("invalid URL of a shared store, {url}: {reason}")]
    SharedUrl {
        /// The address, without a password.
        url: String,
        /// The reason.
        reason: String,
    },
    /// The shared store failed or did not answer.
    #[error("failed to {action} {name} in {url}")]
    Shared {
        /// The operation.
        action: &'static str,
        /// The object.
        name: String,
        /// URL of the store.
        url: String,
        /// The store's error.
        source: Cause,
    },
    /// An object of the shared store is larger than allowed.
    #[error("{name} in {url} has more than {bytes_max} bytes")]
    SharedTooLarge {
        /// The object.
        name: String,
        /// URL of the store.
        url: String,
        /// The limit.
        bytes_max: u64,
    },
    /// An event cannot be exported.
    #[error("failed to export event {position}: {reason}")]
    Export {
        /// Its position.
        position: u64,
        /// The reason.
        reason: String,
    },
    /// A copy differs from its original.
    #[error("at position {position}: event {version} of {experiment} differs in the copy")]
    Copy {
        /// Position of the first event that differs.
        position: u64,
        /// Its experiment.
        experiment: ExperimentId,
        /// Its version.
        version: u64,
    },
    /// A line of an import is invalid. Nothing was imported.
    #[error("{path}, line {line}, {field}: {reason}; nothing was imported")]
    Import {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The invalid field, or `line`.
        field: &'static str,
        /// The reason.
        reason: String,
    },
}

impl StorageError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
