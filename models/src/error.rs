//! Errors of models, split by the caller's options.

use std::path::{Path, PathBuf};

/// An error of the models crate.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of a checkpoint, adapter or tokenizer is missing, unreadable or malformed.
    #[error("failed to read {}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The problem, and the way out.
        reason: String,
    },
    /// A file of a checkpoint or adapter cannot be written. The previous file is unchanged.
    #[error("failed to write {}: {reason}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The problem, and the way out.
        reason: String,
    },
    /// A model, option or input that cannot be used as asked.
    #[error("{0}")]
    Invalid(String),
    /// ONNX Runtime is missing, too old, or lacks a requested feature.
    #[error("{0}")]
    Runtime(String),
    /// The work was cancelled. It has produced nothing and can be repeated.
    #[error("cancelled")]
    Cancelled,
}

impl ModelError {
    /// A [`ModelError::File`] at `path`.
    pub(crate) fn file(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.to_owned(), reason: reason.to_string() }
    }

    /// A [`ModelError::Write`] at `path`.
    pub(crate) fn write(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Write { path: path.to_owned(), reason: reason.to_string() }
    }
}
