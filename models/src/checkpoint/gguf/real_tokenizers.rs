//! Tests the tokenizers of GGUF metadata against those of real models.

use std::path::Path;

use serde_json::{Value, json};

use super::{metadata, split, tokenizer};
use crate::checkpoint::ReadingRules;
use crate::checkpoint::family::by_model_type;

/// Compares with real tokenizers that are not in this repository. `tests/parity/real_tokenizers.py`, with a
/// source of llama.cpp, writes the file that `DISSENT_TOKENIZER_CORPUS` names.
#[test]
#[ignore = "needs the tokenizers that tests/parity/real_tokenizers.py names, and llama.cpp's converter"]
fn real_tokenizers_in_metadata_give_the_ids_of_the_library() {
    let path = std::env::var("DISSENT_TOKENIZER_CORPUS").expect("DISSENT_TOKENIZER_CORPUS names a file");
    let corpus: Value = serde_json::from_slice(&std::fs::read(path).expect("a corpus")).expect("JSON");
    let texts: Vec<&str> =
        corpus["texts"].as_array().expect("texts").iter().filter_map(Value::as_str).collect();
    let mut reports = Vec::new();
    let mut right = true;
    for row in corpus["tokenizers"].as_array().expect("tokenizers") {
        let name = row["name"].as_str().expect("a name");
        let Some(file) = row["gguf"].as_str() else {
            reports.push(format!("{name}: llama.cpp's converter does not know it"));
            continue;
        };
        let header = split::read(Path::new(file)).expect("a header");
        let model_type = metadata::family(&header).expect("a family").model_type;
        let family = by_model_type(model_type).expect("a family");
        let tokenizer = match tokenizer::build(&header, family, ReadingRules::V2) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                reports.push(format!("{name}: refused: {error}"));
                continue;
            }
        };
        let expected = row["plain"].as_array().expect("ids");
        let different: Vec<&str> = texts
            .iter()
            .zip(expected)
            .filter(|(text, expected)| json!(tokenizer.encode(text, false).expect("ids")) != **expected)
            .map(|(text, _)| *text)
            .collect();
        right &= different.is_empty();
        let equal = texts.len() - different.len();
        let first = different.iter().take(3).collect::<Vec<_>>();
        reports.push(format!("{name}: {equal} of {} equal, not {first:?}", texts.len()));
    }
    assert!(right && !reports.is_empty(), "{}", reports.join("\n"));
    eprintln!("{}", reports.join("\n"));
}
