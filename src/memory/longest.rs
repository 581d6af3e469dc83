//! The longest texts of a file.

use std::collections::BTreeSet;

use dissent_models::memory::Decoding;

/// The longest texts and the different tokens of a file.
#[derive(Default)]
pub(crate) struct Longest {
    prompt: usize,
    completion: usize,
    whole: usize,
    tokens: BTreeSet<u32>,
}

impl Longest {
    /// Adds a prompt with its completion.
    pub(crate) fn add(&mut self, prompt: &[u32], completion: &[u32]) {
        self.prompt = self.prompt.max(prompt.len());
        self.completion = self.completion.max(completion.len());
        self.whole = self.whole.max(prompt.len() + completion.len());
        self.tokens.extend(prompt.iter().chain(completion));
    }

    /// Returns the sizes of scoring the texts.
    pub(crate) fn decoding(&self) -> Decoding {
        Decoding {
            prompt: self.prompt.max(1),
            completion: self.whole.saturating_sub(self.prompt).max(self.completion.min(self.whole)),
            rows: 1,
            distinct_tokens: self.tokens.len(),
        }
    }
}
