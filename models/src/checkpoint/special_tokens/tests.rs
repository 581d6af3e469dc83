use std::path::Path;

use super::*;
use crate::checkpoint::tokenizer::NamedToken;
use crate::checkpoint::tokenizer::tests::from_parts;

/// Six words; `<s>`, `</s>` and `<end>` are special.
const WORDS: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
    {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 4, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"<s>": 0, "a": 1, "</s>": 2, "b": 3, "<end>": 4, "?": 5}, "unk_token": "?"}}"#;
const VOCABULARY: usize = 6;

fn configured(config: &str, generation: Option<&str>) -> ConfiguredIds {
    let path = Path::new("config.json");
    let generation = generation.map(|text| (Path::new("generation_config.json"), text.as_bytes()));
    ConfiguredIds::read(path, config.as_bytes(), generation).expect("ids")
}

/// Returns the stop ids and the end text for a configuration, and a tokenizer with an end-of-sequence token
/// and a chat template.
fn resolved(
    config: &str,
    generation: Option<&str>,
    eos: Option<&str>,
    template: Option<&str>,
) -> (Vec<u32>, Option<String>) {
    let source = TokenSource::File("tokenizer_config.json");
    let named = eos.map(|text| NamedToken { name: "eos_token".to_owned(), text: text.to_owned(), source });
    let tokenizer = from_parts(WORDS, template, None, None).with_named_tokens(named.into_iter().collect());
    let tokens = SpecialTokens::resolve(configured(config, generation), VOCABULARY, &tokenizer);
    (tokens.stop_ids(), tokens.end.and_then(|token| token.text))
}

fn end(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn stop_tokens_are_those_of_the_model_and_of_the_tokenizer() {
    let llama = r#"{"model_type": "llama", "eos_token_id": 2}"#;
    assert_eq!(resolved(llama, None, None, None), (vec![2], end("</s>")));
    assert_eq!(resolved(llama, None, Some("<end>"), None), (vec![2, 4], end("<end>")));
    assert_eq!(resolved(llama, Some(r#"{"eos_token_id": [4, 1]}"#), None, None), (vec![4, 1], end("<end>")));
    assert_eq!(resolved(llama, Some(r#"{"eos_token_id": null}"#), None, None), (vec![2], end("</s>")));
    assert_eq!(resolved(llama, Some(r#"{"eos_token_id": []}"#), None, None), (vec![2], end("</s>")));
    let null = r#"{"model_type": "llama", "eos_token_id": null}"#;
    assert_eq!(resolved(null, None, Some("</s>"), None), (vec![2], end("</s>")));
    assert_eq!(resolved(null, None, None, None), (vec![], None));
}

#[test]
fn absent_keys_have_the_default_of_the_class() {
    assert_eq!(resolved(r#"{"model_type": "llama"}"#, None, None, None), (vec![2], end("</s>")));
    // Id 1 is a word, and 50256 is beyond the vocabulary.
    assert_eq!(resolved(r#"{"model_type": "gemma"}"#, None, None, None), (vec![], None));
    assert_eq!(resolved(r#"{"model_type": "gpt2"}"#, None, None, None), (vec![], None));
    let llama = configured(r#"{"model_type": "llama"}"#, None);
    assert_eq!(llama.bos, Some((1, TokenSource::ClassDefault("llama".to_owned()))));
    assert_eq!(configured(r#"{"model_type": "llama", "bos_token_id": null}"#, None).bos, None);
}

#[test]
fn tokens_beyond_the_vocabulary_are_left_out() {
    let beyond = r#"{"model_type": "llama", "eos_token_id": [99999, 2]}"#;
    assert_eq!(resolved(beyond, None, None, None), (vec![2], end("</s>")));
    assert_eq!(resolved(beyond, None, Some("<nothing>"), None), (vec![2], end("</s>")));
}

#[test]
fn the_end_of_the_assistants_turn_stops() {
    let turn = "{% for m in messages %}{{ m.content }} <end> {% endfor %}";
    let llama = r#"{"model_type": "llama", "eos_token_id": 2}"#;
    assert_eq!(resolved(llama, None, Some("</s>"), Some(turn)), (vec![2, 4], end("</s>")));
    assert_eq!(resolved(llama, None, Some("<end>"), Some(turn)), (vec![2, 4], end("<end>")));
    for other in ["{{ messages[1].content }} b", "{{ messages[0].content }}", "{{ raise_exception('no') }}"] {
        assert_eq!(resolved(llama, None, None, Some(other)), (vec![2], end("</s>")), "{other}");
    }
}

#[test]
fn every_token_has_its_sources() {
    let source = TokenSource::File("tokenizer_config.json");
    let named = NamedToken { name: "eos_token".to_owned(), text: "</s>".to_owned(), source };
    let turn = "{% for m in messages %}{{ m.content }}</s>{% endfor %}";
    let tokenizer = from_parts(WORDS, Some(turn), None, None).with_named_tokens(vec![named]);
    let ids = configured(r#"{"model_type": "llama", "eos_token_id": 2}"#, None);
    let tokens = SpecialTokens::resolve(ids, VOCABULARY, &tokenizer);
    let sources: Vec<String> = tokens.stop[0].sources.iter().map(ToString::to_string).collect();
    assert_eq!(sources, ["config.json", "tokenizer_config.json", "chat template"]);
    assert_eq!(tokens.stop[0].text.as_deref(), Some("</s>"));
}

#[test]
fn wrong_ids_are_refused_by_key() {
    let path = Path::new("config.json");
    for value in ["-1", "\"two\"", "[2, null]", "2.5"] {
        let config = format!(r#"{{"model_type": "llama", "eos_token_id": {value}}}"#);
        let reason = ConfiguredIds::read(path, config.as_bytes(), None).expect_err("refused").to_string();
        assert!(reason.contains("eos_token_id"), "{reason}");
    }
}
