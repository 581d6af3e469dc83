//! Settings of the clustering.

use serde::{Deserialize, Serialize};

/// Fewest prompts that are divided into topics.
pub const PROMPTS_MIN: usize = 8;

/// Settings of the clustering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSettings {
    /// Number of topics; `None` chooses it. The number found may be smaller.
    pub topics: Option<usize>,
    /// Largest number of topics that is tried. Never more than a fifth of the prompts are tried.
    pub most: usize,
    /// Starts of k-means for each number of topics, at least 1; the best one counts.
    pub restarts: usize,
    /// Seed of the starts.
    pub seed: u64,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self { topics: None, most: 30, restarts: 4, seed: 0 }
    }
}
