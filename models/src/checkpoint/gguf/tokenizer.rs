//! Builds a tokenizer from GGUF metadata: the equivalent `tokenizer.json` is assembled and read by the same
//! library.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::header::Header;
use super::metadata::token_id;
use super::splitting::{Splitting, byte_level_step};
use crate::checkpoint::family::Family;
use crate::checkpoint::{ReadingRules, TextTokenizer};

/// Token types of `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Builds the tokenizer that the metadata describes, by the reading rules.
pub(super) fn build(
    header: &Header,
    family: &Family,
    reading: ReadingRules,
) -> Result<TextTokenizer, String> {
    let tokens = header.texts("tokenizer.ggml.tokens").ok_or("tokenizer.ggml.tokens is missing")?;
    let kind = header.text("tokenizer.ggml.model").ok_or("tokenizer.ggml.model is missing")?;
    let (description, add_bos) = match kind {
        "gpt2" => byte_level(header, tokens, family)?,
        "llama" => (sentence_piece(header, tokens, reading)?, true),
        other => return Err(format!("tokenizer {other:?} is not supported: use gpt2 or llama")),
    };
    let bytes = serde_json::to_vec(&description).map_err(|error| error.to_string())?;
    let inner = Tokenizer::from_bytes(bytes).map_err(|error| format!("invalid tokenizer: {error}"))?;
    let text_of = |name: &str| tokens.get(usize::try_from(token_id(header, name)?).ok()?).cloned();
    let chat_template = header.text("tokenizer.chat_template").map(str::to_owned);
    let bos = header.bool("tokenizer.ggml.add_bos_token").unwrap_or(add_bos);
    let eos = header.bool("tokenizer.ggml.add_eos_token").unwrap_or(false);
    let tokenizer = TextTokenizer::new(inner, chat_template, text_of("bos"), text_of("eos"));
    Ok(tokenizer.with_special_tokens(bos, eos)?.with_reading(reading))
}

/// Returns the tokens that are matched whole in a text: control tokens (special) and added tokens.
fn added_tokens(header: &Header, tokens: &[String]) -> Vec<Value> {
    let types = header.integers("tokenizer.ggml.token_type").unwrap_or_default();
    tokens
        .iter()
        .zip(types)
        .enumerate()
        .filter(|(_, (token, kind))| matches!(**kind, CONTROL | USER_DEFINED) && !token.is_empty())
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == CONTROL,
            })
        })
        .collect()
}

fn vocabulary(tokens: &[String]) -> Value {
    let ids: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), Value::from(id))).collect();
    Value::Object(ids)
}

/// Builds a byte-level BPE model. Also returns whether such a tokenizer adds a beginning-of-sequence
/// token if the file does not say.
fn byte_level(header: &Header, tokens: &[String], family: &Family) -> Result<(Value, bool), String> {
    let merges = header.texts("tokenizer.ggml.merges").ok_or("tokenizer.ggml.merges is missing")?;
    let merges = merges
        .iter()
        .map(|merge| merge.split_once(' ').ok_or_else(|| format!("merge {merge:?} is not a pair")))
        .collect::<Result<Vec<_>, _>>()?;
    let splitting = header.text("tokenizer.ggml.pre").unwrap_or("default");
    let split = Splitting::of(splitting, family)?;
    let description = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(header, tokens),
        "normalizer": split.normaliser,
        "pre_tokenizer": split.pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level_step(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": split.ignore_merges, "vocab": vocabulary(tokens), "merges": merges,
        },
    });
    Ok((description, split.add_bos))
}

/// Builds a SentencePiece BPE model, as in Llama 2. The file lists scores instead of merges. Two tokens may
/// be merged if their join is a token; the join with the higher score goes first.
fn sentence_piece(header: &Header, tokens: &[String], reading: ReadingRules) -> Result<Value, String> {
    let scores = header.floats("tokenizer.ggml.scores").ok_or("tokenizer.ggml.scores is missing")?;
    if scores.len() != tokens.len() {
        return Err(format!("{} scores for {} tokens", scores.len(), tokens.len()));
    }
    let unknown = token_id(header, "unknown").and_then(|id| tokens.get(usize::try_from(id).ok()?));
    let space_first = header.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space_first {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    // A space precedes the text and each part after a special token, as in llama.cpp. Version 0.1 added
    // none to a text that begins with one, nor after special tokens.
    let (normaliser, pre_tokenizer) = match (reading, space_first) {
        (ReadingRules::V2, true) => (
            json!({"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u{2581}"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
            ]}),
            Value::Null,
        ),
        (_, true) => (Value::Null, metaspace("first")),
        (_, false) => (Value::Null, metaspace("never")),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(header, tokens),
        "normalizer": normaliser,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary(tokens), "merges": merges_of(tokens, scores),
        },
    }))
}

/// Writes spaces as `▁`, and one before the text as `scheme` says.
fn metaspace(scheme: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false})
}

/// The longest token for which merges are computed, in characters; SentencePiece's own limit is 16.
const PIECE_CHARACTERS_MAX: usize = 64;

/// Returns all ways to join two tokens into a third, highest score first. Ties go to the longer left part,
/// then to the longer right part, then by id, as in transformers.
fn merges_of<'a>(tokens: &'a [String], scores: &[f64]) -> Vec<(&'a str, &'a str)> {
    let ids: BTreeMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        if token.chars().nth(PIECE_CHARACTERS_MAX).is_some() {
            continue;
        }
        let mut pairs: Vec<_> = token
            .char_indices()
            .skip(1)
            .filter_map(|(cut, _)| {
                let (left, right) = token.split_at(cut);
                Some((*ids.get(left)?, *ids.get(right)?, left, right))
            })
            .collect();
        pairs.sort_by_key(|(left, right, ..)| (*left, *right));
        merges.extend(pairs.into_iter().map(|(_, _, left, right)| (*score, left, right)));
    }
    let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
    merges.sort_by(|one, other| {
        other.0.total_cmp(&one.0).then_with(|| lengths(other.1, other.2).cmp(&lengths(one.1, one.2)))
    });
    merges.into_iter().map(|(_, left, right)| (left, right)).collect()
}
