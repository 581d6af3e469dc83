use serde_json::json;

use super::*;
use crate::checkpoint::tokenizer::tests::WORDS;

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
fn templates_are_read_by_name() {
    let named = json!([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]);
    let pair = |name: &str, template: &str| (name.to_owned(), template.to_owned());
    assert_eq!(named_templates(&named), [pair("tool_use", "T"), pair("default", "D")]);
    assert_eq!(named_templates(&json!("one")), [pair("default", "one")]);
    assert_eq!(named_templates(&json!(7)), []);
}

/// Compares with `AutoTokenizer` of transformers 5.24: see `tokenizer_files.py` beside the golden file.
#[test]
fn files_are_read_as_by_auto_tokenizer() {
    let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/tokenizer_files.json"))
        .expect("a golden file");
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().expect("cases") {
        let tokenizer = golden["tokenizers"][case["tokenizer"].as_str().expect("a kind")].to_string();
        let file = |name: &str| case["files"].get(name).map(|content| content.to_string().into_bytes());
        let files = TokenizerFiles {
            folder: Path::new("folder"),
            model_type: "llama",
            tokenizer: tokenizer.into_bytes(),
            config: file(CONFIG),
            tokens_map: file(TOKENS_MAP),
            added_tokens: file(ADDED_TOKENS),
            chat_template: None,
            further_templates: Vec::new(),
        };
        let read = files.open().expect("a tokenizer");
        let ids: Vec<Vec<u32>> = golden["texts"]
            .as_array()
            .expect("texts")
            .iter()
            .map(|text| read.encode(text.as_str().expect("a text"), true).expect("ids"))
            .collect();
        let tokens: Map<String, Value> =
            read.template_tokens().map(|(name, text)| (name.to_owned(), text.into())).collect();
        if json!(ids) != case["ids"] || Value::from(tokens.clone()) != case["tokens"] {
            wrong.push(format!(
                "{}: {ids:?} {tokens:?}, want {} {}",
                case["name"], case["ids"], case["tokens"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn refusal(config: Value) -> String {
    let files = TokenizerFiles {
        folder: Path::new("folder"),
        model_type: "llama",
        tokenizer: WORDS.as_bytes().to_vec(),
        config: Some(config.to_string().into_bytes()),
        tokens_map: None,
        added_tokens: None,
        chat_template: None,
        further_templates: Vec::new(),
    };
    files.open().expect_err("refused").to_string()
}

#[test]
fn files_that_contradict_each_other_are_refused() {
    let decoder = |id: &str| json!({"added_tokens_decoder": {id: {"content": "<tool>", "special": true}}});
    let reason = refusal(decoder("9"));
    assert!(reason.contains("\"<tool>\" has id 9 here, and id 5"), "{reason}");
    assert!(refusal(decoder("five")).contains("five"));
    assert!(refusal(json!({"eos_token": 3})).contains("eos_token"));
}

/// Compares with real tokenizers that are not in this repository. `tests/parity/real_tokenizers.py` writes
/// the file that `DISSENT_TOKENIZER_CORPUS` names.
#[test]
#[ignore = "needs the tokenizers that tests/parity/real_tokenizers.py names"]
fn real_tokenizers_give_the_ids_of_the_library() {
    let path = std::env::var("DISSENT_TOKENIZER_CORPUS").expect("DISSENT_TOKENIZER_CORPUS names a file");
    let corpus: Value = serde_json::from_slice(&std::fs::read(path).expect("a corpus")).expect("JSON");
    let texts: Vec<&str> = corpus["texts"]
        .as_array()
        .expect("texts")
        .iter()
        .map(|text| text.as_str().expect("a text"))
        .collect();
    let mut reports = Vec::new();
    let mut right = true;
    for row in corpus["tokenizers"].as_array().expect("tokenizers") {
        let folder = Path::new(row["folder"].as_str().expect("a folder"));
        let read = |name: &str| std::fs::read(folder.join(name)).ok();
        let files = TokenizerFiles {
            folder,
            model_type: "",
            tokenizer: read(TOKENIZER).expect("tokenizer.json"),
            config: read(CONFIG),
            tokens_map: read(TOKENS_MAP),
            added_tokens: read(ADDED_TOKENS),
            chat_template: read(CHAT_TEMPLATE),
            further_templates: Vec::new(),
        };
        let tokenizer = match files.open() {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                reports.push(format!("{}: refused: {error}", row["name"]));
                continue;
            }
        };
        let mut equal = |key: &str, add_special: bool| {
            let ids = |text: &&str| json!(tokenizer.encode(text, add_special).expect("ids"));
            let expected = row[key].as_array()?;
            let equal = texts.iter().zip(expected).filter(|(text, expected)| ids(text) == **expected).count();
            right &= key == "auto" || equal == texts.len();
            Some(equal)
        };
        reports.push(format!(
            "{}: library {:?}, without special tokens {:?}, AutoTokenizer {:?} of {}",
            row["name"],
            equal("library", true),
            equal("plain", false),
            equal("auto", true),
            texts.len()
        ));
    }
    assert!(right && !reports.is_empty(), "{}", reports.join("\n"));
    eprintln!("{}", reports.join("\n"));
}
