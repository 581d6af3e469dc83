//! Versions of the rules by which a checkpoint's files are read.

use crate::error::{InvalidKind, ModelError};

/// The rules by which a checkpoint's files become special tokens, a tokenizer and a scored position.
///
/// An experiment records the version that it began with, because other rules may give other numbers.
///
/// # Examples
/// ```
/// use dissent_models::checkpoint::ReadingRules;
///
/// assert_eq!(ReadingRules::default(), ReadingRules::V2);
/// assert_eq!(ReadingRules::try_from(1)?, ReadingRules::V1);
/// assert!(ReadingRules::try_from(9).is_err());
/// # Ok::<(), dissent_models::ModelError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ReadingRules {
    /// The rules of version 0.1: stop tokens of the configuration files only, the last token is scored.
    V1,
    /// The rules of transformers 5: one set of special tokens from all files of a checkpoint.
    #[default]
    V2,
}

impl ReadingRules {
    /// Returns the number that an experiment records.
    #[must_use]
    pub const fn version(self) -> u32 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

impl TryFrom<u32> for ReadingRules {
    type Error = ModelError;

    /// Returns the rules with a recorded number.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if this version of the program does not know the number.
    fn try_from(version: u32) -> Result<Self, ModelError> {
        match version {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            other => Err(ModelError::invalid(
                InvalidKind::Setting,
                format!("reading rules {other} are unknown: use a newer version of the program, or 1 or 2"),
            )),
        }
    }
}
