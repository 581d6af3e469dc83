//! How a prompt, or a prompt with its answer, becomes the text that a model sees.

use std::str::FromStr;

use crate::checkpoint::TextTokenizer;
use crate::error::ModelError;

/// What surrounds a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptTemplate {
    /// The model's own chat template, the prompt being the user's one message.
    Chat,
    /// The prompt as it is.
    Raw,
    /// A text that names `{prompt}` and, optionally after it, `{completion}`.
    Text(String),
}

impl FromStr for PromptTemplate {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        Ok(match text {
            "chat" => Self::Chat,
            "raw" => Self::Raw,
            text => Self::Text(text.to_owned()),
        })
    }
}

impl PromptTemplate {
    /// The text that a policy is given to complete.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a chat template is asked for and there is none, or it fails.
    pub fn render_prompt(&self, tokenizer: &TextTokenizer, prompt: &str) -> Result<String, ModelError> {
        let _ = (tokenizer, prompt);
        Err(ModelError::Invalid("templates are not there yet".to_owned()))
    }

    /// The text of a prompt and its answer, as a reward model sees it.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn render_whole(
        &self,
        tokenizer: &TextTokenizer,
        prompt: &str,
        completion: &str,
    ) -> Result<String, ModelError> {
        let _ = (tokenizer, prompt, completion);
        Err(ModelError::Invalid("templates are not there yet".to_owned()))
    }

    /// Token ids of the rendered prompt.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn encode_prompt(&self, tokenizer: &TextTokenizer, prompt: &str) -> Result<Vec<u32>, ModelError> {
        let text = self.render_prompt(tokenizer, prompt)?;
        tokenizer.encode(&text, *self != Self::Chat)
    }

    /// Token ids of the rendered prompt and answer.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn encode_whole(
        &self,
        tokenizer: &TextTokenizer,
        prompt: &str,
        completion: &str,
    ) -> Result<Vec<u32>, ModelError> {
        let text = self.render_whole(tokenizer, prompt, completion)?;
        tokenizer.encode(&text, *self != Self::Chat)
    }
}
