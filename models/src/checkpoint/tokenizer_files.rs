//! The files of a Hugging Face folder that define a tokenizer, read as transformers' `AutoTokenizer` reads
//! them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::config::ModelConfig;
use super::files::parse_json;
use super::reading::ReadingRules;
use super::special_tokens::of_tokenizer_class;
use super::token_source::TokenSource;
use super::tokenizer::{NamedToken, TextTokenizer};
use crate::error::ModelError;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TOKENS_MAP: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// The special tokens that every tokenizer class of transformers has.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The files of a Hugging Face folder that define a tokenizer.
pub(super) struct TokenizerFiles<'a> {
    pub folder: &'a Path,
    /// `model_type` of `config.json`.
    pub model_type: &'a str,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Option<Vec<u8>>,
    /// `special_tokens_map.json`.
    pub tokens_map: Option<Vec<u8>>,
    /// `added_tokens.json`.
    pub added_tokens: Option<Vec<u8>>,
    /// `chat_template.jinja`, which takes precedence over a template in the configuration.
    pub chat_template: Option<Vec<u8>>,
    /// Name and content of each file in `additional_chat_templates`.
    pub further_templates: Vec<(String, Vec<u8>)>,
}

/// Whether `special_tokens_map.json` and `added_tokens.json` count: only beside a `tokenizer_config.json`
/// without `added_tokens_decoder`.
pub(super) fn reads_older_files(config: Option<&[u8]>) -> bool {
    #[derive(Deserialize)]
    struct Config {
        added_tokens_decoder: Option<IgnoredAny>,
    }
    let config = config.and_then(|bytes| serde_json::from_slice::<Config>(bytes).ok());
    config.is_none_or(|config| config.added_tokens_decoder.is_none())
}

impl TokenizerFiles<'_> {
    /// Builds the tokenizer by the present rules: those of transformers 5.
    pub(super) fn open(self) -> Result<TextTokenizer, ModelError> {
        let path = self.folder.join(TOKENIZER);
        let mut inner = read_tokenizer(&path, &self.tokenizer)?;
        let mut settings = Settings::read(&self)?;
        let class = settings.class(self.model_type, &inner);
        settings.add_defaults(&class);
        settings.add_tokens(&mut inner, self.folder)?;
        if settings.config.get("split_special_tokens").is_some_and(|flag| flag == true) {
            inner.set_encode_special_tokens(true);
        }
        warn_of_flags(&settings.config, &inner);
        let folder = self.folder;
        let templates = self.chat_templates(settings.config.get("chat_template"))?;
        let named = settings.named_tokens();
        let tokenizer = TextTokenizer::new(inner, None, None, None)
            .with_chat_templates(templates)
            .with_named_tokens(named);
        // These classes replace the file's own rule.
        let rule = match class.as_str() {
            "GPTNeoXTokenizer" => tokenizer.with_special_tokens(false, false),
            "CodeLlamaTokenizer" => tokenizer.with_special_tokens(true, false),
            _ => Ok(tokenizer),
        };
        rule.map_err(|reason| ModelError::file(&folder.join(CONFIG), reason))
    }

    /// Builds the tokenizer by the rules of version 0.1.
    pub(super) fn open_as_first_version(self, model: &ModelConfig) -> Result<TextTokenizer, ModelError> {
        let config_path = self.folder.join(CONFIG);
        let raw: FirstConfig = match &self.config {
            Some(bytes) => parse_json(&config_path, bytes)?,
            None => FirstConfig::default(),
        };
        let inner = read_tokenizer(&self.folder.join(TOKENIZER), &self.tokenizer)?;
        let chat_template = match self.chat_template {
            Some(bytes) => Some(text(&self.folder.join(CHAT_TEMPLATE), bytes)?),
            None => raw.chat_template.as_ref().and_then(|value| {
                let named = named_templates(value);
                named.into_iter().find(|(name, _)| name == "default").map(|(_, template)| template)
            }),
        };
        let token_of = |id: Option<u32>| id.and_then(|id| inner.id_to_token(id));
        let bos_token = raw.bos_token.as_ref().and_then(token_text).or_else(|| token_of(model.bos_token_id));
        let eos_token = raw
            .eos_token
            .as_ref()
            .and_then(token_text)
            .or_else(|| token_of(model.eos_token_ids.first().copied()));
        let tokenizer =
            TextTokenizer::new(inner, chat_template, bos_token, eos_token).with_reading(ReadingRules::V1);
        if raw.add_bos_token.is_none() && raw.add_eos_token.is_none() {
            return Ok(tokenizer);
        }
        tokenizer
            .with_special_tokens(raw.add_bos_token.unwrap_or(false), raw.add_eos_token.unwrap_or(false))
            .map_err(|reason| ModelError::file(&config_path, reason))
    }

    /// Returns the chat templates by name. Template files take precedence over the configuration.
    fn chat_templates(self, configured: Option<&Value>) -> Result<Vec<(String, String)>, ModelError> {
        let mut templates = Vec::new();
        if let Some(bytes) = self.chat_template {
            templates.push(("default".to_owned(), text(&self.folder.join(CHAT_TEMPLATE), bytes)?));
        }
        for (name, bytes) in self.further_templates {
            let template = text(&self.folder.join(format!("{name}.jinja")), bytes)?;
            templates.push((name, template));
        }
        if templates.is_empty() {
            templates = configured.map(named_templates).unwrap_or_default();
        }
        Ok(templates)
    }
}

/// The keys of `tokenizer_config.json` that version 0.1 reads.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FirstConfig {
    bos_token: Option<Value>,
    eos_token: Option<Value>,
    chat_template: Option<Value>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
}

/// What the files say about special and added tokens.
struct Settings {
    /// `tokenizer_config.json`, with the changes of `special_tokens_map.json`.
    config: Map<String, Value>,
    /// Names that `special_tokens_map.json` sets.
    from_map: BTreeSet<String>,
    /// Added tokens by the id that the files give, apart from those of `tokenizer.json`.
    added: BTreeMap<u64, AddedToken>,
    /// Special tokens by name. `None` is an explicit null.
    named: Vec<(String, Option<AddedToken>, TokenSource)>,
    /// Special tokens without a name.
    further: Vec<AddedToken>,
    /// The padding token of `tokenizer.json`.
    padding: Option<String>,
}

impl Settings {
    fn read(files: &TokenizerFiles<'_>) -> Result<Self, ModelError> {
        let object =
            |name: &str, bytes: Option<&Vec<u8>>| -> Result<Option<Map<String, Value>>, ModelError> {
                bytes.map(|bytes| parse_json(&files.folder.join(name), bytes)).transpose()
            };
        let mut settings = Self {
            config: object(CONFIG, files.config.as_ref())?.unwrap_or_default(),
            from_map: BTreeSet::new(),
            added: BTreeMap::new(),
            named: Vec::new(),
            further: Vec::new(),
            padding: padding_token(&files.tokenizer),
        };
        settings.rename_additional();
        match settings.config.get("added_tokens_decoder").cloned() {
            Some(Value::Object(decoder)) => settings.read_decoder(&files.folder.join(CONFIG), &decoder)?,
            // Only a configuration without them is completed by the files of transformers 2 and 3.
            _ => {
                settings.merge_map(object(TOKENS_MAP, files.tokens_map.as_ref())?.unwrap_or_default());
                let added = object(ADDED_TOKENS, files.added_tokens.as_ref())?.unwrap_or_default();
                settings.read_added(&files.folder.join(ADDED_TOKENS), &added)?;
            }
        }
        settings.collect_named(&files.folder.join(CONFIG))?;
        Ok(settings)
    }

    /// The name of a key in transformers 4, unless the present name is there.
    fn rename_additional(&mut self) {
        let present = self.config.get("extra_special_tokens");
        let empty = present.is_none_or(|value| match value {
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            value @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => value.is_null(),
        });
        if empty && let Some(tokens) = self.config.shift_remove("additional_special_tokens") {
            self.config.insert("extra_special_tokens".to_owned(), tokens);
        }
    }

    fn read_decoder(&mut self, path: &Path, decoder: &Map<String, Value>) -> Result<(), ModelError> {
        for (id, token) in decoder {
            let wrong =
                || ModelError::file(path, format!("added_tokens_decoder: {id:?} is not a token with its id"));
            let id: u64 = id.parse().map_err(|_| wrong())?;
            self.added.insert(id, added_token(token, false).ok_or_else(wrong)?);
        }
        Ok(())
    }

    fn merge_map(&mut self, map: Map<String, Value>) {
        for (key, value) in map {
            self.from_map.insert(key.clone());
            if key == "extra_special_tokens"
                && let (Some(Value::Array(tokens)), Value::Array(more)) = (self.config.get_mut(&key), &value)
            {
                let known: BTreeSet<_> = tokens.iter().filter_map(token_text).collect();
                let is_new = |token: &&Value| token_text(token).is_none_or(|text| !known.contains(&text));
                tokens.extend(more.iter().filter(is_new).cloned());
                continue;
            }
            self.config.insert(key, value);
        }
        self.rename_additional();
    }

    fn read_added(&mut self, path: &Path, added: &Map<String, Value>) -> Result<(), ModelError> {
        let mut special: BTreeSet<String> =
            NAMES.iter().filter_map(|name| token_text(self.config.get(*name)?)).collect();
        if let Some(Value::Array(tokens)) = self.config.get("extra_special_tokens") {
            special.extend(tokens.iter().filter_map(token_text));
        }
        for (text, id) in added {
            let id = id.as_u64().ok_or_else(|| {
                ModelError::file(path, format!("{text:?} has {id}, which is not a token id"))
            })?;
            self.added.insert(id, AddedToken::from(text.clone(), special.contains(text)));
        }
        Ok(())
    }

    fn collect_named(&mut self, path: &Path) -> Result<(), ModelError> {
        let flags: BTreeMap<&str, &AddedToken> =
            self.added.values().map(|token| (token.content.as_str(), token)).collect();
        let source =
            |name: &str| TokenSource::File(if self.from_map.contains(name) { TOKENS_MAP } else { CONFIG });
        let mut named = Vec::new();
        for name in NAMES {
            let Some(value) = self.config.get(name) else { continue };
            let token = match value {
                Value::Null => None,
                value @ (Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_)
                | Value::Object(_)) => {
                    let token = added_token(value, true)
                        .ok_or_else(|| ModelError::file(path, format!("{name} is not a token: {value}")))?;
                    Some(flags.get(token.content.as_str()).map_or(token, |known| (*known).clone()))
                }
            };
            named.push((name.to_owned(), token, source(name)));
        }
        let extra = self.config.get("extra_special_tokens");
        let own = self.config.iter().filter(|(key, value)| {
            key.ends_with("_token") && !NAMES.contains(&key.as_str()) && value.is_string()
        });
        for (name, value) in own.chain(extra.and_then(Value::as_object).into_iter().flatten()) {
            if let Some(token) = added_token(value, true) {
                named.push((name.clone(), Some(token), source(name)));
            }
        }
        if let Some(Value::Array(tokens)) = extra {
            self.further = tokens.iter().filter_map(|token| added_token(token, true)).collect();
        }
        self.named = named;
        Ok(())
    }

    /// Returns the class that transformers uses, without the ending `Fast`; empty for the general one.
    fn class(&self, model_type: &str, inner: &Tokenizer) -> String {
        /// Types of models whose tokenizers always are of the general class.
        const GENERAL: [&str; 12] = [
            "mistral",
            "mixtral",
            "ministral",
            "phi3",
            "olmo2",
            "olmo3",
            "stablelm",
            "granite",
            "glm",
            "glm4",
            "nemotron",
            "ernie4_5",
        ];
        let class = self.config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let class = class.strip_suffix("Fast").unwrap_or(class);
        // A byte-level tokenizer is no Llama tokenizer, even if its class says so.
        let not_llama = class == "LlamaTokenizer" && inner.get_pre_tokenizer().is_some_and(is_byte_level);
        if not_llama || GENERAL.contains(&model_type) { String::new() } else { class.to_owned() }
    }

    /// Completes the special tokens with those of the tokenizer's class, where a key is absent.
    fn add_defaults(&mut self, class: &str) {
        let absent = |named: &[(String, Option<AddedToken>, TokenSource)], name: &str| {
            named.iter().all(|(other, ..)| other != name)
        };
        for (name, text) in of_tokenizer_class(class) {
            if absent(&self.named, name) {
                let source = TokenSource::ClassDefault(class.to_owned());
                self.named.push(((*name).to_owned(), Some(AddedToken::from(*text, true)), source));
            }
        }
        if let Some(text) = self.padding.take().filter(|_| absent(&self.named, "pad_token")) {
            let token = AddedToken::from(text, true);
            self.named.push(("pad_token".to_owned(), Some(token), TokenSource::File(TOKENIZER)));
        }
    }

    /// Adds the tokens that `tokenizer.json` lacks, in transformers' order, which decides their ids.
    fn add_tokens(&self, inner: &mut Tokenizer, folder: &Path) -> Result<(), ModelError> {
        let known: HashSet<AddedToken> = inner.get_added_tokens_decoder().into_values().collect();
        let mut tokens: Vec<AddedToken> =
            self.added.values().filter(|token| !known.contains(token)).cloned().collect();
        let mut texts: BTreeSet<String> =
            known.iter().chain(&tokens).map(|token| token.content.clone()).collect();
        // The default of a class names a token, but does not enlarge the vocabulary.
        let named = self.named.iter().filter_map(|(_, token, source)| {
            let token = token.as_ref()?;
            let is_default = matches!(source, TokenSource::ClassDefault(_));
            (!is_default || inner.token_to_id(&token.content).is_some()).then_some(token)
        });
        let special: Vec<&AddedToken> = named.chain(&self.further).collect();
        for token in &special {
            if texts.insert(token.content.clone()) {
                tokens.push((*token).clone());
            }
        }
        let names: BTreeSet<&str> =
            self.named.iter().filter_map(|(_, token, _)| Some(token.as_ref()?.content.as_str())).collect();
        for token in &mut tokens {
            token.special |= names.contains(token.content.as_str());
        }
        let before = inner.get_vocab_size(true);
        inner.add_tokens(&tokens);
        let special: Vec<AddedToken> = special.into_iter().map(|token| token.clone().special(true)).collect();
        inner.add_special_tokens(&special);
        let added = inner.get_vocab_size(true) - before;
        if added > 0 {
            tracing::info!(added, "adding tokens that tokenizer.json lacks");
        }
        for (id, token) in self.added.iter().filter(|(_, token)| !token.content.is_empty()) {
            let found = inner.token_to_id(&token.content);
            if found.map(u64::from) != Some(*id) {
                let name =
                    if self.config.contains_key("added_tokens_decoder") { CONFIG } else { ADDED_TOKENS };
                return Err(ModelError::file(
                    &folder.join(name),
                    format!(
                        "token {:?} has id {id} here, and id {} by {TOKENIZER}: save the tokenizer again with \
                         transformers' save_pretrained",
                        token.content,
                        found.map_or_else(|| "none".to_owned(), |found| found.to_string()),
                    ),
                ));
            }
        }
        Ok(())
    }

    fn named_tokens(self) -> Vec<NamedToken> {
        self.named
            .into_iter()
            .filter_map(|(name, token, source)| Some(NamedToken { name, text: token?.content, source }))
            .collect()
    }
}

/// Warns of `add_bos_token` and `add_eos_token` where transformers 4 and 5 differ. Transformers 5 does not
/// read them beside `tokenizer.json`. Transformers 4 reads them for some classes.
fn warn_of_flags(config: &Map<String, Value>, inner: &Tokenizer) {
    let flag = |name: &str| config.get(name).and_then(Value::as_bool);
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    if !["Llama", "CodeLlama", "Gemma", "Cohere"].iter().any(|family| class.starts_with(family)) {
        return;
    }
    let token_id = |name: &str| inner.token_to_id(&token_text(config.get(name)?)?);
    let ids = inner.encode_fast("", true).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
    for (name, token) in [("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")] {
        let adds = token_id(token).is_some_and(|id| ids.contains(&id));
        if flag(name).is_some_and(|flag| flag != adds) {
            tracing::warn!(
                setting = name,
                "ignoring a setting of tokenizer_config.json as transformers 5 does; transformers 4 follows it"
            );
        }
    }
}

fn is_byte_level(pre_tokenizer: &tokenizers::PreTokenizerWrapper) -> bool {
    serde_json::to_string(pre_tokenizer).is_ok_and(|description| description.contains("\"ByteLevel\""))
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, ModelError> {
    String::from_utf8(bytes).map_err(|error| ModelError::file(path, error))
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

fn padding_token(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Padding {
        pad_token: String,
    }
    #[derive(Deserialize)]
    struct Description {
        padding: Option<Padding>,
    }
    serde_json::from_slice::<Description>(bytes).ok()?.padding.map(|padding| padding.pad_token)
}

/// Returns a token that is stored as a text, or as an object with its text as `content` and with flags.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    Some(
        AddedToken::from(token_text(value)?, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special)),
    )
}

/// Returns the text of a token, which is stored as a string or as an object with its text as `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// Returns a single template under the name `default`, or a list of named templates.
fn named_templates(value: &Value) -> Vec<(String, String)> {
    if let Some(template) = value.as_str() {
        return vec![("default".to_owned(), template.to_owned())];
    }
    let named = |entry: &Value| {
        Some((entry.get("name")?.as_str()?.to_owned(), entry.get("template")?.as_str()?.to_owned()))
    };
    value.as_array().into_iter().flatten().filter_map(named).collect()
}

#[cfg(test)]
mod tests;
