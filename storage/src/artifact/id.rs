//! Names of artifacts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not the name of an artifact; it holds the first 100 characters of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of an artifact: a name has 64 digits of 0-9 and a-f")]
pub struct InvalidArtifactName(pub String);

/// Name of an artifact: the BLAKE3 hash of its bytes, 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactId(blake3::Hash);

impl ArtifactId {
    /// Returns the name that these bytes have.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes))
    }
}

impl FromStr for ArtifactId {
    type Err = InvalidArtifactName;

    /// Reads a name.
    ///
    /// # Errors
    /// If it is anything but 64 lower-case hexadecimal digits: names become paths.
    fn from_str(name: &str) -> Result<Self, InvalidArtifactName> {
        let canonical = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let hash = canonical.then(|| blake3::Hash::from_hex(name).ok()).flatten();
        hash.map(Self).ok_or_else(|| InvalidArtifactName(name.chars().take(100).collect()))
    }
}

impl TryFrom<String> for ArtifactId {
    type Error = InvalidArtifactName;

    fn try_from(name: String) -> Result<Self, InvalidArtifactName> {
        name.parse()
    }
}

impl From<ArtifactId> for String {
    fn from(id: ArtifactId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

impl From<blake3::Hash> for ArtifactId {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash)
    }
}
