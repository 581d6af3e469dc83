//! The data sets of a plan. Each is named by the hash of its content, so that a moved file is no change.

use serde::{Deserialize, Serialize};

/// The prompts of an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptSource {
    /// BLAKE3 (hex) of the artifact that holds them, as JSON lines.
    pub artifact: String,
    /// How many there are.
    pub count: u32,
}

/// Preferences, as an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreferenceSource {
    /// BLAKE3 (hex) of the artifact that holds them, as JSON lines of [`Preference`](crate::training::Preference).
    pub artifact: String,
    /// How many there are.
    pub count: u32,
}
