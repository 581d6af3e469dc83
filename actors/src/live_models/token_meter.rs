//! Counts sampled tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Completion tokens sampled since the process started.
#[derive(Debug, Clone, Default)]
pub struct TokenMeter(Arc<AtomicU64>);

impl TokenMeter {
    /// The number of tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, tokens: u64) {
        self.0.fetch_add(tokens, Ordering::Relaxed);
    }
}
