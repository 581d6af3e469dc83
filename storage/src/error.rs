//! What can go wrong beside the log itself.

use std::io;
use std::path::{Path, PathBuf};

use dissent_domain::log::LogError;

use crate::artifact::{ArtifactId, InvalidArtifactName};

/// An error of an artifact store, an export or an import.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The log said no.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The file system said no.
    #[error("failed to {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a name of an artifact.
    #[error(transparent)]
    ArtifactName(#[from] InvalidArtifactName),
    /// There is no such artifact.
    #[error("there is no artifact {0}")]
    ArtifactMissing(ArtifactId),
    /// An artifact's bytes are not those that were put there.
    #[error("artifact {id} at {path} is damaged: {reason}; put it again from its source")]
    ArtifactDamaged {
        /// Its name.
        id: ArtifactId,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Not the address of a shared store.
    #[error("{url} cannot be the shared store: {reason}")]
    SharedUrl {
        /// The address, without a password.
        url: String,
        /// Why not.
        reason: String,
    },
    /// A shared store said no, or does not answer.
    #[error("failed to {action} {name} in {url}: {reason}")]
    Shared {
        /// What was tried.
        action: &'static str,
        /// With which object.
        name: String,
        /// Of which store.
        url: String,
        /// What it said.
        reason: String,
    },
    /// An event cannot be exported.
    #[error("failed to export event {position}: {reason}")]
    Export {
        /// Its position.
        position: u64,
        /// Why.
        reason: String,
    },
    /// A copy is not what it was made from.
    #[error("at position {position}: {reason}")]
    Copy {
        /// Position of the event at fault.
        position: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of an import is not as an export would have written it. Nothing was imported.
    #[error("{path}, line {line}, {field}: {reason}; nothing was imported")]
    Import {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The field at fault, or `line`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl StorageError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
