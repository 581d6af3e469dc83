//! The places that name special tokens.

use std::fmt;

use serde::Serialize;

/// Where a special token was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A file of the checkpoint.
    File(&'static str),
    /// A key of a GGUF file's metadata.
    GgufKey(String),
    /// The default of transformers' class, for a key that is absent.
    ClassDefault(String),
    /// The token that the chat template writes after the assistant's text.
    ChatTemplate,
}

impl fmt::Display for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => f.write_str(name),
            Self::GgufKey(key) => f.write_str(key),
            Self::ClassDefault(class) => write!(f, "default of {class}"),
            Self::ChatTemplate => f.write_str("chat template"),
        }
    }
}

impl Serialize for TokenSource {
    fn serialize<S: serde::Serializer>(&self, serialiser: S) -> Result<S::Ok, S::Error> {
        serialiser.collect_str(self)
    }
}
