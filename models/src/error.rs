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
    /// A model, option or input cannot be used as requested.
    #[error("{reason}")]
    Invalid {
        /// The kind of the problem, for code.
        kind: InvalidKind,
        /// The problem and the way out, for people.
        reason: String,
        /// The error of another library behind it, if there is one.
        #[source]
        source: Option<Cause>,
    },
    /// ONNX Runtime is missing, too old, or lacks a requested feature.
    #[error("{0}")]
    Runtime(String),
    /// The work was cancelled. It has produced nothing and can be repeated.
    #[error("cancelled")]
    Cancelled,
}

/// The error of another library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The kinds of [`ModelError::Invalid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidKind {
    /// A setting or option is out of range.
    Setting,
    /// A sequence is longer than the model's context.
    TooLong {
        /// The length of the sequence, in tokens. If a prompt fills the context, the length of the prompt.
        tokens: usize,
        /// The model's context, in tokens.
        max: usize,
    },
    /// A prompt, completion or batch has no token.
    Empty,
    /// A token is outside the model's vocabulary.
    UnknownToken {
        /// The token's id.
        id: u32,
    },
    /// Shapes, lengths or layers do not match those of the model, the graph or the session.
    ShapeMismatch,
    /// A tensor is missing, or has an unsupported element type.
    MissingTensor,
    /// A number is infinite or NaN.
    NotFinite,
    /// A prompt template is invalid, missing, or fails.
    Template,
    /// A tokenizer is invalid or fails.
    Tokenizer,
    /// Examples, rewards or batches cannot be used.
    Data,
    /// A checkpoint is damaged, or belongs to another training.
    Checkpoint,
    /// Weights or bytes are not an adapter.
    Adapter,
    /// A graph is inconsistent.
    Graph,
    /// A value cannot be serialised.
    Serialisation,
    /// A feature is not supported for this model, method or session.
    Unsupported,
}

impl ModelError {
    /// Returns a [`ModelError::Invalid`] of this kind.
    pub fn invalid(kind: InvalidKind, reason: impl Into<String>) -> Self {
        Self::Invalid { kind, reason: reason.into(), source: None }
    }

    /// Returns a [`ModelError::Invalid`] of this kind, caused by another error.
    pub(crate) fn invalid_because(
        kind: InvalidKind,
        reason: impl Into<String>,
        source: impl Into<Cause>,
    ) -> Self {
        Self::Invalid { kind, reason: reason.into(), source: Some(source.into()) }
    }

    /// Returns the kind of a [`ModelError::Invalid`]; `None` for other errors.
    #[must_use]
    pub const fn invalid_kind(&self) -> Option<InvalidKind> {
        match self {
            Self::Invalid { kind, .. } => Some(*kind),
            Self::File { .. } | Self::Write { .. } | Self::Runtime(_) | Self::Cancelled => None,
        }
    }

    /// Returns a [`ModelError::File`] at `path`.
    pub(crate) fn file(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.to_owned(), reason: reason.to_string() }
    }

    /// Returns a [`ModelError::Write`] at `path`.
    pub(crate) fn write(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Write { path: path.to_owned(), reason: reason.to_string() }
    }
}
