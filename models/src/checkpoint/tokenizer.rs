//! Converts text to token ids and back, with the model's own chat template.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::reading::ReadingRules;
use super::token_source::TokenSource;
use crate::error::{InvalidKind, ModelError};
use crate::jinja::{self, Dialect, TemplateDate};

/// The bytes of a text that a token covers: start and end.
type Offsets = (usize, usize);

/// A tokenizer with the special-token texts that a chat template needs.
#[derive(Clone)]
pub struct TextTokenizer {
    /// Shared by all clones: a vocabulary takes much memory.
    inner: Arc<Tokenizer>,
    /// Chat templates by name; a single one is named `default`.
    chat_templates: Vec<(String, String)>,
    bos_token: Option<String>,
    /// The token that ends a completion.
    eos_token: Option<String>,
    /// Special tokens by the names that chat templates use.
    named: Vec<NamedToken>,
    reading: ReadingRules,
}

/// A special token as a file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedToken {
    /// Its name, such as `bos_token`.
    pub name: String,
    pub text: String,
    pub source: TokenSource,
}

/// The name of the chat template that is used unless tools are given.
const DEFAULT: &str = "default";

impl std::fmt::Debug for TextTokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TextTokenizer")
            .field("vocabulary", &self.inner.get_vocab_size(true))
            .field("chat_templates", &self.chat_templates.len())
            .finish_non_exhaustive()
    }
}

impl TextTokenizer {
    /// Encodes a text. With `add_special`, the result includes the tokens that the tokenizer adds around a
    /// text by itself, such as a beginning-of-sequence token. Special tokens that are written out in the text
    /// become their ids.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the tokenizer fails.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(|error| {
            ModelError::invalid(InvalidKind::Tokenizer, format!("failed to tokenise a text: {error}"))
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`TextTokenizer::encode`], with the bytes of the text that each token covers: start and end.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the tokenizer fails.
    pub(crate) fn encode_with_offsets(
        &self,
        text: &str,
        add_special: bool,
    ) -> Result<(Vec<u32>, Vec<Offsets>), ModelError> {
        let encoding = self.inner.encode(text, add_special).map_err(|error| {
            ModelError::invalid(InvalidKind::Tokenizer, format!("failed to tokenise a text: {error}"))
        })?;
        Ok((encoding.get_ids().to_vec(), encoding.get_offsets().to_vec()))
    }

    /// Decodes token ids; `skip_special` omits special tokens. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, ModelError> {
        self.inner.decode(ids, skip_special).map_err(|error| {
            ModelError::invalid(
                InvalidKind::Tokenizer,
                format!("failed to turn token ids into text: {error}"),
            )
        })
    }

    /// Returns the chat template (Jinja), if the model has one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.template_named(DEFAULT)
    }

    /// Returns the chat template for a chat with or without tools. The error says what is missing.
    pub(crate) fn chat_template_for(&self, tools: bool) -> Result<&str, String> {
        let for_tools = self.template_named("tool_use").filter(|_| tools);
        for_tools.or_else(|| self.chat_template()).ok_or_else(|| {
            let names: Vec<&str> = self.chat_templates.iter().map(|(name, _)| name.as_str()).collect();
            if names.is_empty() {
                "the model has no chat template".to_owned()
            } else {
                format!("none of the model's chat templates ({}) is named default", names.join(", "))
            }
        })
    }

    fn template_named(&self, name: &str) -> Option<&str> {
        self.chat_templates.iter().find(|(other, _)| other == name).map(|(_, template)| template.as_str())
    }

    /// Returns the special tokens that chat templates see: name and text.
    pub(crate) fn template_tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named_tokens().map(|(name, text, _)| (name, text))
    }

    /// Returns the special tokens by name: name, text and source.
    pub(super) fn named_tokens(&self) -> impl Iterator<Item = (&str, &str, &TokenSource)> {
        self.named.iter().map(|token| (token.name.as_str(), token.text.as_str(), &token.source))
    }

    /// Returns the rules by which the tokenizer was read.
    #[must_use]
    pub fn reading(&self) -> ReadingRules {
        self.reading
    }

    /// Returns the text of the beginning-of-sequence token, if there is one.
    #[must_use]
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_deref()
    }

    /// Returns the text of the token that ends a completion, if there is one: the tokenizer's end-of-sequence
    /// token, or else the model's.
    #[must_use]
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_deref()
    }

    /// Returns the id of a token with this text.
    pub(crate) fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the text of a token.
    pub(super) fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether decoding leaves a token out as special.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Returns the special token that the chat template writes directly after the assistant's text.
    pub(super) fn end_of_turn(&self) -> Option<u32> {
        const ANSWER: &str = "ANSWER";
        let mut context: Map<String, Value> =
            self.template_tokens().map(|(name, text)| (name.to_owned(), text.into())).collect();
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        context.insert("messages".to_owned(), json!([turn("user", "Question"), turn("assistant", ANSWER)]));
        for (name, value) in
            [("tools", Value::Null), ("documents", Value::Null), ("add_generation_prompt", false.into())]
        {
            context.insert(name.to_owned(), value);
        }
        let dialect = Dialect::Jinja2(TemplateDate::default());
        let text = jinja::render(self.chat_template()?, &context, dialect, false).ok()?;
        let (_, after) = text.rsplit_once(ANSWER)?;
        let first = *self.encode(after.trim_start(), false).ok()?.first()?;
        self.is_special(first).then_some(first)
    }

    /// Returns the tokenizer as files of a Hugging Face folder: name and content of each.
    pub(super) fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, ModelError> {
        let failed = |error: String| {
            ModelError::invalid_because(
                InvalidKind::Serialisation,
                "the tokenizer cannot be serialised",
                error,
            )
        };
        let tokenizer = self.inner.to_string(true).map_err(|error| failed(error.to_string()))?;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "clean_up_tokenization_spaces": false,
        });
        for (name, text) in
            self.template_tokens().filter(|(name, _)| !["bos_token", "eos_token"].contains(name))
        {
            config[name] = text.into();
        }
        let config = serde_json::to_vec_pretty(&config).map_err(|error| failed(error.to_string()))?;
        let mut files = vec![("tokenizer.json", tokenizer.into_bytes()), ("tokenizer_config.json", config)];
        files.extend(
            self.chat_template().map(|template| ("chat_template.jinja", template.to_owned().into_bytes())),
        );
        Ok(files)
    }

    /// Returns the number of tokens, including added tokens.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

impl TextTokenizer {
    /// Builds a tokenizer. Truncation and padding of a tokenizer file are switched off, so a text is always
    /// encoded whole.
    pub(super) fn new(
        mut inner: Tokenizer,
        chat_template: Option<String>,
        bos_token: Option<String>,
        eos_token: Option<String>,
    ) -> Self {
        inner.with_padding(None);
        // Only enabling truncation can fail.
        let _ = inner.with_truncation(None);
        let token = |name: &str, text: &Option<String>| {
            let source = TokenSource::File("tokenizer_config.json");
            text.clone().map(|text| NamedToken { name: name.to_owned(), text, source })
        };
        let named = [token("bos_token", &bos_token), token("eos_token", &eos_token)];
        Self {
            inner: Arc::new(inner),
            chat_templates: chat_template
                .into_iter()
                .map(|template| (DEFAULT.to_owned(), template))
                .collect(),
            bos_token,
            eos_token,
            named: named.into_iter().flatten().collect(),
            reading: ReadingRules::default(),
        }
    }

    /// Replaces the chat templates, by name.
    pub(super) fn with_chat_templates(mut self, templates: Vec<(String, String)>) -> Self {
        self.chat_templates = templates;
        self
    }

    /// Replaces the special tokens that chat templates see.
    pub(super) fn with_named_tokens(mut self, named: Vec<NamedToken>) -> Self {
        let text = |name: &str| named.iter().find(|token| token.name == name).map(|token| token.text.clone());
        (self.bos_token, self.eos_token) = (text("bos_token"), text("eos_token"));
        self.named = named;
        self
    }

    /// Sets the token that ends a completion.
    pub(super) fn with_end(mut self, end: Option<String>) -> Self {
        self.eos_token = end;
        self
    }

    /// Sets the rules by which the tokenizer was read.
    pub(super) fn with_reading(mut self, reading: ReadingRules) -> Self {
        self.reading = reading;
        self
    }

    /// Makes `add_special` add the beginning and end tokens, and nothing else.
    pub(super) fn with_special_tokens(mut self, bos: bool, eos: bool) -> Result<Self, String> {
        let mut special_tokens = serde_json::Map::new();
        let mut special = |wanted: bool, token: &Option<String>| -> Result<Vec<Value>, String> {
            // As in transformers: a token that the tokenizer does not have is not added.
            let Some(token) = token.as_ref().filter(|_| wanted) else { return Ok(Vec::new()) };
            let id =
                self.inner.token_to_id(token).ok_or_else(|| format!("{token:?} is not in the vocabulary"))?;
            special_tokens.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
            Ok(vec![json!({"SpecialToken": {"id": token, "type_id": 0}})])
        };
        let before = special(bos, &self.bos_token)?;
        let after = special(eos, &self.eos_token)?;
        let text = |id: &str| vec![json!({"Sequence": {"id": id, "type_id": 0}})];
        let single = [before.clone(), text("A"), after.clone()].concat();
        let pair = [before, text("A"), text("B"), after].concat();
        let template = json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": special_tokens,
        });
        let processor: PostProcessorWrapper =
            serde_json::from_value(template).map_err(|error| error.to_string())?;
        Arc::make_mut(&mut self.inner).with_post_processor(Some(processor));
        Ok(self)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tokenizer with five words.
    pub(crate) const WORDS: &str = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy":
        "LongestFirst", "stride": 0}, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer":
        {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null, "model": {"type": "WordLevel",
        "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "?": 4}, "unk_token": "?"}}"#;

    /// Returns the tokenizer with five words, with `<s>` as its beginning-of-sequence token, and a chat
    /// template.
    pub(crate) fn tokenizer(chat_template: Option<&str>) -> TextTokenizer {
        let inner = Tokenizer::from_bytes(WORDS).expect("a tokenizer");
        TextTokenizer::new(inner, chat_template.map(str::to_owned), Some("<s>".to_owned()), None)
    }

    /// Returns a tokenizer from the text of its file and the additions of a configuration.
    pub(crate) fn from_parts(
        file: &str,
        chat_template: Option<&str>,
        bos: Option<&str>,
        eos: Option<&str>,
    ) -> TextTokenizer {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let inner = Tokenizer::from_bytes(file).expect("a tokenizer");
        TextTokenizer::new(inner, owned(chat_template), owned(bos), owned(eos))
    }

    /// Returns a tokenizer with the usual names for both special tokens, and a chat template.
    pub(crate) fn with_both_tokens(chat_template: &str) -> TextTokenizer {
        let inner = Tokenizer::from_bytes(WORDS).expect("a tokenizer");
        TextTokenizer::new(
            inner,
            Some(chat_template.to_owned()),
            Some("<s>".to_owned()),
            Some("</s>".to_owned()),
        )
    }

    #[test]
    fn truncation_settings_of_the_file_are_ignored() {
        assert_eq!(tokenizer(None).encode("a b a b", true).expect("ids"), [2, 3, 2, 3]);
    }

    #[test]
    fn special_tokens_are_added_only_on_request() {
        let with = tokenizer(None).with_special_tokens(true, true).expect("a tokenizer");
        assert_eq!(with.encode("a b", true).expect("ids"), [0, 2, 3]);
        assert_eq!(with.encode("a b", false).expect("ids"), [2, 3]);
    }
}
