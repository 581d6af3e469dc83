//! Converts text to token ids and back, with the model's own chat template.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::config::ModelConfig;
use super::files::parse_json;
use crate::error::{InvalidKind, ModelError};

/// A tokenizer with the special-token texts that a chat template needs.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
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
        self.chat_template.as_deref()
    }

    /// Returns the text of the beginning-of-sequence token, if there is one.
    #[must_use]
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_deref()
    }

    /// Returns the text of the end-of-sequence token, if there is one.
    #[must_use]
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_deref()
    }

    /// Returns the id of a token with this text.
    pub(crate) fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
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
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "clean_up_tokenization_spaces": false,
        });
        let config = serde_json::to_vec_pretty(&config).map_err(|error| failed(error.to_string()))?;
        let mut files = vec![("tokenizer.json", tokenizer.into_bytes()), ("tokenizer_config.json", config)];
        files.extend(
            self.chat_template
                .as_ref()
                .map(|template| ("chat_template.jinja", template.clone().into_bytes())),
        );
        Ok(files)
    }

    /// Returns the number of tokens, including added tokens.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// The files of a Hugging Face folder that define a tokenizer.
pub(super) struct TokenizerFiles<'a> {
    pub folder: &'a Path,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Option<Vec<u8>>,
    /// `chat_template.jinja`, which takes precedence over a template in the configuration.
    pub chat_template: Option<Vec<u8>>,
}

/// The keys of `tokenizer_config.json` that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawTokenizerConfig {
    bos_token: Option<Value>,
    eos_token: Option<Value>,
    chat_template: Option<Value>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
}

impl TokenizerFiles<'_> {
    pub(super) fn open(self, model: &ModelConfig) -> Result<TextTokenizer, ModelError> {
        let config_path = self.folder.join("tokenizer_config.json");
        let raw: RawTokenizerConfig = match &self.config {
            Some(bytes) => parse_json(&config_path, bytes)?,
            None => RawTokenizerConfig::default(),
        };
        let path = self.folder.join("tokenizer.json");
        let inner = read_tokenizer(&path, &self.tokenizer)?;
        let chat_template = match self.chat_template {
            Some(bytes) => Some(
                String::from_utf8(bytes)
                    .map_err(|error| ModelError::file(&self.folder.join("chat_template.jinja"), error))?,
            ),
            None => raw.chat_template.as_ref().and_then(default_template),
        };
        let token_of = |id: Option<u32>| id.and_then(|id| inner.id_to_token(id));
        let bos_token = raw.bos_token.as_ref().and_then(token_text).or_else(|| token_of(model.bos_token_id));
        let eos_token = raw
            .eos_token
            .as_ref()
            .and_then(token_text)
            .or_else(|| token_of(model.eos_token_ids.first().copied()));
        let tokenizer = TextTokenizer::new(inner, chat_template, bos_token, eos_token);
        if raw.add_bos_token.is_none() && raw.add_eos_token.is_none() {
            return Ok(tokenizer);
        }
        // As in transformers: these settings of the configuration replace the tokenizer's own rule.
        tokenizer
            .with_special_tokens(raw.add_bos_token.unwrap_or(false), raw.add_eos_token.unwrap_or(false))
            .map_err(|reason| ModelError::file(&config_path, reason))
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
        Self { inner, chat_template, bos_token, eos_token }
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
        self.inner.with_post_processor(Some(processor));
        Ok(self)
    }
}

/// Parses `tokenizer.json`.
///
/// The library panics on some malformed files, so the JSON is parsed once before. Compiled character maps are
/// refused, because the library checks them neither when it reads them nor when it uses them.
fn read_tokenizer(path: &Path, bytes: &[u8]) -> Result<Tokenizer, ModelError> {
    let description: Value = parse_json(path, bytes)?;
    if description.get("normalizer").is_some_and(has_compiled_map) {
        return Err(ModelError::file(path, "a normalizer with a precompiled_charsmap is not supported"));
    }
    drop(description);
    Tokenizer::from_bytes(bytes).map_err(|error| ModelError::file(path, error))
}

fn has_compiled_map(normalizer: &Value) -> bool {
    normalizer.get("type").and_then(Value::as_str) == Some("Precompiled")
        || normalizer.get("precompiled_charsmap").is_some()
        || normalizer
            .get("normalizers")
            .and_then(Value::as_array)
            .is_some_and(|parts| parts.iter().any(has_compiled_map))
}

/// Returns the text of a token, which is stored as a string or as an object with its text as `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// Returns a single template, or the entry `default` of a list of named templates.
fn default_template(value: &Value) -> Option<String> {
    if let Some(template) = value.as_str() {
        return Some(template.to_owned());
    }
    let named = value
        .as_array()?
        .iter()
        .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?;
    named.get("template")?.as_str().map(str::to_owned)
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
    fn compiled_character_maps_are_refused_everywhere() {
        let path = Path::new("tokenizer.json");
        let map = r#"{"type": "Precompiled", "precompiled_charsmap": "AAAA"}"#;
        for normalizer in [map.to_owned(), format!(r#"{{"type": "Sequence", "normalizers": [{map}]}}"#)] {
            let file = WORDS.replace(r#""normalizer": null"#, &format!(r#""normalizer": {normalizer}"#));
            let reason = read_tokenizer(path, file.as_bytes()).expect_err("refused").to_string();
            assert!(reason.contains("precompiled_charsmap"), "{reason}");
        }
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

    #[test]
    fn the_default_of_several_templates_is_used() {
        let named = json!([{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]);
        assert_eq!(default_template(&named).as_deref(), Some("D"));
        assert_eq!(default_template(&json!("one")).as_deref(), Some("one"));
        assert_eq!(default_template(&json!(7)), None);
    }
}
