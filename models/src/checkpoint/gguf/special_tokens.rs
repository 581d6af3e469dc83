//! Special tokens from GGUF metadata.

use super::header::Header;
use super::metadata::token_id;
use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::reading::ReadingRules;
use crate::checkpoint::special_tokens::{ConfiguredIds, SpecialTokens};
use crate::checkpoint::token_source::TokenSource;
use crate::checkpoint::tokenizer::{NamedToken, TextTokenizer};

/// The special tokens that chat templates see, and their names in the metadata.
const NAMED: [(&str, &str); 7] = [
    ("bos_token", "bos"),
    ("eos_token", "eos"),
    ("unk_token", "unknown"),
    ("sep_token", "seperator"),
    ("pad_token", "padding"),
    ("cls_token", "cls"),
    ("mask_token", "mask"),
];

/// Resolves the special tokens of a file, and sets those of the configuration.
pub(super) fn resolve(
    header: &Header,
    config: &mut ModelConfig,
    tokenizer: TextTokenizer,
) -> (TextTokenizer, SpecialTokens) {
    if tokenizer.reading() == ReadingRules::V1 {
        let special_tokens = SpecialTokens::of_first_version(config, &tokenizer);
        return (tokenizer, special_tokens);
    }
    let token = |(name, key): &(&str, &str)| {
        let text = tokenizer.token_text(token_id(header, key)?)?;
        Some(NamedToken { name: (*name).to_owned(), text, source: source(key) })
    };
    let named = NAMED.iter().filter_map(token).collect();
    let tokenizer = tokenizer.with_named_tokens(named);
    let ids = ConfiguredIds {
        model_type: String::new(),
        bos: token_id(header, "bos").map(|id| (id, source("bos"))),
        stop: ["eos", "eot", "eom"]
            .iter()
            .filter_map(|key| Some((token_id(header, key)?, source(key))))
            .collect(),
    };
    let special_tokens = SpecialTokens::resolve(ids, config.vocab_size, &tokenizer);
    config.bos_token_id = special_tokens.bos.as_ref().and_then(|token| token.id);
    config.eos_token_ids = special_tokens.stop_ids();
    let end = special_tokens.end.as_ref().and_then(|token| token.text.clone());
    (tokenizer.with_end(end), special_tokens)
}

fn source(name: &str) -> TokenSource {
    TokenSource::GgufKey(format!("tokenizer.ggml.{name}_token_id"))
}
