//! The data sets of a plan, each named by the hash of its content.

use serde::{Deserialize, Serialize};

/// A set of prompts, as an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptSource {
    /// BLAKE3 (hex) of the artifact that holds them, as JSON Lines.
    pub artifact: String,
    /// Their number.
    pub count: u32,
}

/// Preferences, as an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreferenceSource {
    /// BLAKE3 (hex) of the artifact that holds them, as JSON Lines of
    /// [`Preference`](crate::training::Preference).
    pub artifact: String,
    /// Their number.
    pub count: u32,
}
