//! Text to token ids and back, with the model's own chat template.

use crate::error::ModelError;

/// A tokenizer with the texts that a chat template needs.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: tokenizers::Tokenizer,
    chat_template: Option<String>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl std::fmt::Debug for TextTokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TextTokenizer")
            .field("vocabulary", &self.inner.get_vocab_size(true))
            .field("chat_template", &self.chat_template.is_some())
            .finish_non_exhaustive()
    }
}

impl TextTokenizer {
    /// Token ids of a text. With `add_special`, the tokens that the tokenizer puts around a text of its own accord (a
    /// beginning-of-sequence token, say) are there too. Special tokens written out in the text become their ids.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the tokenizer fails.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        let encoding = self
            .inner
            .encode_fast(text, add_special)
            .map_err(|error| ModelError::Invalid(format!("failed to tokenise a text: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids; with `skip_special`, without the special tokens among them. Bytes that are not UTF-8 become
    /// U+FFFD.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, ModelError> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| ModelError::Invalid(format!("failed to turn token ids into text: {error}")))
    }

    /// The chat template (Jinja), where the model has one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The text of the beginning-of-sequence token, where there is one.
    #[must_use]
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_deref()
    }

    /// The text of the end-of-sequence token, where there is one.
    #[must_use]
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_deref()
    }

    /// The number of tokens, added ones included.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
