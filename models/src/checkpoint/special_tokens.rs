//! The special tokens of a checkpoint: one set, from all of its files.

mod defaults;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::{Map, Value};

use super::config::ModelConfig;
use super::files::parse_json;
use super::token_source::TokenSource;
use super::tokenizer::TextTokenizer;
use crate::error::ModelError;

pub(super) use defaults::of_tokenizer_class;

/// A special token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpecialToken {
    /// Its text; `None` for an id that the tokenizer does not have.
    pub text: Option<String>,
    /// Its id; `None` for a text that the tokenizer does not have.
    pub id: Option<u32>,
    /// The places that name it.
    pub sources: Vec<TokenSource>,
}

/// The special tokens of a checkpoint. Training, generation and templates use the same set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpecialTokens {
    /// Tokens that end a completion, without those beyond the vocabulary. A model without any cannot stop.
    pub stop: Vec<SpecialToken>,
    /// The token that training writes after a completion, where the template does not mark the end.
    pub end: Option<SpecialToken>,
    /// Beginning-of-sequence token of the model's configuration.
    pub bos: Option<SpecialToken>,
    /// The variables of chat templates, such as `bos_token`.
    pub named: BTreeMap<String, SpecialToken>,
}

/// The ids that the model's configuration gives.
#[derive(Debug, Default)]
pub(super) struct ConfiguredIds {
    /// `model_type` of `config.json`.
    pub model_type: String,
    pub bos: Option<(u32, TokenSource)>,
    pub stop: Vec<(u32, TokenSource)>,
}

impl ConfiguredIds {
    /// Reads `config.json` and `generation_config.json`. As in transformers, stop tokens of the generation
    /// file replace those of the configuration, and an absent key has the default of the model's class.
    pub(super) fn read(
        path: &Path,
        config: &[u8],
        generation: Option<(&Path, &[u8])>,
    ) -> Result<Self, ModelError> {
        let config: Map<String, Value> = parse_json(path, config)?;
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let text_config = config.get("text_config").and_then(Value::as_object);
        let key = |name: &str| config.get(name).or_else(|| text_config?.get(name));
        let defaults = defaults::of_model_type(model_type);
        let file = TokenSource::File("config.json");
        let class = || TokenSource::ClassDefault(model_type.to_owned());
        let bos = match key("bos_token_id") {
            Some(value) => ids(path, "bos_token_id", value)?.first().map(|id| (*id, file.clone())),
            None => defaults.bos.map(|id| (id, class())),
        };
        let generated = match generation {
            Some((path, bytes)) => {
                let generation: Map<String, Value> = parse_json(path, bytes)?;
                generation.get("eos_token_id").map(|value| ids(path, "eos_token_id", value)).transpose()?
            }
            None => None,
        };
        let stop = match (generated.filter(|ids| !ids.is_empty()), key("eos_token_id")) {
            (Some(ids), _) => from(ids, &TokenSource::File("generation_config.json")),
            (None, Some(value)) => from(ids(path, "eos_token_id", value)?, &file),
            (None, None) => from(defaults.eos.to_vec(), &class()),
        };
        Ok(Self { model_type: model_type.to_owned(), bos, stop })
    }
}

fn from(ids: Vec<u32>, source: &TokenSource) -> Vec<(u32, TokenSource)> {
    ids.into_iter().map(|id| (id, source.clone())).collect()
}

/// One id, a list of ids, or null.
fn ids(path: &Path, key: &str, value: &Value) -> Result<Vec<u32>, ModelError> {
    let id = |value: &Value| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| ModelError::file(path, format!("{key} is not a token id: {value}")))
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => values.iter().map(id).collect(),
        value @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            Ok(vec![id(value)?])
        }
    }
}

impl SpecialTokens {
    /// Resolves the set by the present rules. Ids beyond the vocabulary are warned of and left out.
    pub(super) fn resolve(configured: ConfiguredIds, vocabulary: usize, tokenizer: &TextTokenizer) -> Self {
        let mut tokens = Self { named: named(tokenizer), ..Self::default() };
        let within = |id: u32| usize::try_from(id).is_ok_and(|id| id < vocabulary);
        for (id, source) in configured.stop {
            if matches!(source, TokenSource::ClassDefault(_)) && !tokenizer.is_special(id) {
                continue;
            }
            if within(id) {
                tokens.add_stop(id, source, tokenizer);
            } else if !matches!(source, TokenSource::ClassDefault(_)) {
                tracing::warn!(id, vocabulary, source = %source, "ignoring a stop token beyond the vocabulary");
            }
        }
        if let Some(SpecialToken { id: Some(id), sources, .. }) = tokens.named.get("eos_token").cloned() {
            if within(id) {
                tokens.end = tokens.named.get("eos_token").cloned();
                for source in sources {
                    tokens.add_stop(id, source, tokenizer);
                }
            } else {
                tracing::warn!(id, vocabulary, "ignoring an end-of-sequence token beyond the vocabulary");
            }
        }
        if let Some(id) = tokenizer.end_of_turn().filter(|id| within(*id)) {
            tokens.add_stop(id, TokenSource::ChatTemplate, tokenizer);
        }
        tokens.end = tokens.end.or_else(|| tokens.stop.iter().find(|token| token.text.is_some()).cloned());
        tokens.bos = configured.bos.filter(|(id, _)| within(*id)).map(|(id, source)| SpecialToken {
            text: tokenizer.token_text(id),
            id: Some(id),
            sources: vec![source],
        });
        tokens
    }

    /// Describes the tokens of a checkpoint that version 0.1's rules read.
    pub(super) fn of_first_version(config: &ModelConfig, tokenizer: &TextTokenizer) -> Self {
        let file = TokenSource::File("config.json");
        let token = |id: u32| SpecialToken {
            text: tokenizer.token_text(id),
            id: Some(id),
            sources: vec![file.clone()],
        };
        let end = tokenizer.eos_token().map(|text| SpecialToken {
            text: Some(text.to_owned()),
            id: tokenizer.token_id(text),
            sources: vec![file.clone()],
        });
        Self {
            stop: config.eos_token_ids.iter().map(|id| token(*id)).collect(),
            end,
            bos: config.bos_token_id.map(token),
            named: named(tokenizer),
        }
    }

    /// Returns the ids of the tokens that end a completion.
    #[must_use]
    pub fn stop_ids(&self) -> Vec<u32> {
        self.stop.iter().filter_map(|token| token.id).collect()
    }

    fn add_stop(&mut self, id: u32, source: TokenSource, tokenizer: &TextTokenizer) {
        match self.stop.iter_mut().find(|token| token.id == Some(id)) {
            Some(token) if token.sources.contains(&source) => {}
            Some(token) => token.sources.push(source),
            None => {
                let text = tokenizer.token_text(id);
                self.stop.push(SpecialToken { text, id: Some(id), sources: vec![source] });
            }
        }
    }
}

fn named(tokenizer: &TextTokenizer) -> BTreeMap<String, SpecialToken> {
    let token = |(name, text, source): (&str, &str, &TokenSource)| {
        let token = SpecialToken {
            text: Some(text.to_owned()),
            id: tokenizer.token_id(text),
            sources: vec![source.clone()],
        };
        (name.to_owned(), token)
    };
    tokenizer.named_tokens().map(token).collect()
}

/// Warns, once a process, of a policy that no token can end.
pub(crate) fn warn_if_endless(stop_tokens: &[u32], name: &str) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if stop_tokens.is_empty() && !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            model = name,
            "sampling from a model without a stop token: every completion runs to its longest length; \
             set eos_token_id in generation_config.json"
        );
    }
}

#[cfg(test)]
mod tests;
