//! Names of experiments and prompts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name of an experiment or a prompt, in bytes.
pub const ID_BYTES_MAX: usize = 256;

/// A name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name is empty.
    #[error("the {0} may not be empty")]
    Empty(&'static str),
    /// The name is longer than [`ID_BYTES_MAX`].
    #[error("the {0} of {1} bytes is too long: at most {ID_BYTES_MAX} are allowed")]
    TooLong(&'static str, usize),
    /// The name has a character that is not allowed.
    #[error("{name:?} cannot be the {kind}: {found:?} is not allowed ({allowed})")]
    Character {
        /// The kind of name.
        kind: &'static str,
        /// The name.
        name: String,
        /// The character.
        found: char,
        /// The allowed characters.
        allowed: &'static str,
    },
}

/// The name of an experiment: letters, digits, `-`, `_` and `.`, without a leading dot. It is safe as a file
/// name and readable in a routing key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExperimentId(String);

impl ExperimentId {
    /// Checks a name.
    ///
    /// # Errors
    /// If it is empty or too long, has a character outside `[A-Za-z0-9._-]`, or starts with a dot.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        const KIND: &str = "experiment name";
        let name = checked_length(KIND, name.into())?;
        let bad = |found| IdError::Character {
            kind: KIND,
            name: name.clone(),
            found,
            allowed: "use letters, digits, '-', '_' and '.', not starting with '.'",
        };
        if name.starts_with('.') {
            return Err(bad('.'));
        }
        match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
            Some(found) => Err(bad(found)),
            None => Ok(Self(name)),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a prompt within an experiment: any text without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PromptId(String);

impl PromptId {
    /// Checks a name.
    ///
    /// # Errors
    /// If it is empty, too long, or has a control character.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        const KIND: &str = "prompt_id";
        let name = checked_length(KIND, name.into())?;
        match name.chars().find(|c| c.is_control()) {
            Some(found) => {
                Err(IdError::Character { kind: KIND, name, found, allowed: "no control characters" })
            }
            None => Ok(Self(name)),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn checked_length(kind: &'static str, name: String) -> Result<String, IdError> {
    match name.len() {
        0 => Err(IdError::Empty(kind)),
        n if n > ID_BYTES_MAX => Err(IdError::TooLong(kind, n)),
        _ => Ok(name),
    }
}

macro_rules! conversions {
    ($id:ty) => {
        impl TryFrom<String> for $id {
            type Error = IdError;
            fn try_from(name: String) -> Result<Self, IdError> {
                Self::new(name)
            }
        }
        impl std::str::FromStr for $id {
            type Err = IdError;
            fn from_str(name: &str) -> Result<Self, IdError> {
                Self::new(name)
            }
        }
        impl From<$id> for String {
            fn from(id: $id) -> String {
                id.0
            }
        }
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
conversions!(ExperimentId);
conversions!(PromptId);
