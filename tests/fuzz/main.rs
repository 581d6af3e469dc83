//! Fuzzing of untrusted input: configurations, prompts, data sets, judgements. Each reader runs within the
//! memory bound of `mutation::bounded`. `PROPTEST_CASES` sets the number of cases.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../domain/tests/mutation/mod.rs"]
mod mutation;

use std::fs;
use std::path::Path;

use dissent::config::Config;
use dissent::dataset::prompts;
use dissent::dataset::{Dataset, Format, ReadOptions};
use dissent::study::config::StudyConfig;
use dissent_actors::read_judgements;
use proptest::prelude::*;

use mutation::{bounded, cases, mutated, mutations};

const ROWS: [&str; 6] = [
    r#"{"prompt":"why?","chosen":"because","rejected":"no","margin":1.5}"#,
    r#"{"chosen":"\n\nHuman: why?\n\nAssistant: because","rejected":"\n\nHuman: why?\n\nAssistant: no"}"#,
    r#"{"prompt":"why?","response_0":"a","response_1":"b","better_response_id":0,"safer_response_id":1,"is_response_0_safe":true,"is_response_1_safe":false}"#,
    r#"{"messages":[{"role":"user","content":"why?"},{"role":"assistant","content":"because"}]}"#,
    r#"{"prompt":[{"role":"user","content":"why?"}],"completion":[{"role":"assistant","content":"so"}],"label":true}"#,
    r#"{"prompt_id":"p1","prompt":"why?","category":"a","text":"plain"}"#,
];

const JUDGEMENT: &str = r#"{"round":0,"comparison":1,"annotator":"ann","verdict":"second","is_unsafe":[true,false],"comment":"both lie"}"#;

fn written<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    bounded(bytes.len(), || read(&path))
}

fn example(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)).unwrap()
}

fn take_rows(bytes: &[u8], format: Option<Format>) {
    written("rows.jsonl", bytes, |path| {
        let options = ReadOptions { format, ..ReadOptions::default() };
        if let Ok(dataset) = Dataset::read(path, &options) {
            let _ = dataset.fingerprint();
            let _ = (dataset.clone().preferences(), dataset.clone().sft_rows(), dataset.prompts());
        }
    });
    let _ = written("prompts.jsonl", bytes, |path| prompts::read(path, &[]));
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn loading_a_mutated_configuration_stays_bounded_and_yields_only_valid_ones(mutations in mutations()) {
        let bytes = mutated(&example("demo/demo.toml"), &mutations);
        if let Ok(config) = written("run.toml", &bytes, Config::load) {
            prop_assert!(config.validate().is_ok());
        }
    }

    #[test]
    fn loading_a_mutated_study_never_panics_and_stays_bounded(
        name in prop::sample::select(vec!["study-tone.toml", "study-categories.toml", "study-humans.toml"]),
        mutations in mutations(),
    ) {
        let _outcome = written("study.toml", &mutated(&example(name), &mutations), StudyConfig::load);
    }

    #[test]
    fn loading_arbitrary_text_as_a_configuration_is_an_error(text in "(\\PC|[\\[\\]={}\"'\n.,0-9]){0,80}") {
        prop_assert!(written("run.toml", text.as_bytes(), Config::load).is_err());
    }

    #[test]
    fn reading_mutated_rows_never_panics_and_stays_bounded(
        row in prop::sample::select(ROWS.to_vec()),
        copies in 1..4_usize,
        mutations in mutations(),
        format in prop::option::of(prop::sample::select(Format::ALL.to_vec())),
    ) {
        let whole = format!("{row}\n").repeat(copies);
        take_rows(&mutated(whole.as_bytes(), &mutations), format);
    }

    #[test]
    fn reading_mutated_judgements_yields_at_most_one_a_line(copies in 1..4_usize, mutations in mutations()) {
        let bytes = mutated(format!("{JUDGEMENT}\n").repeat(copies).as_bytes(), &mutations);
        let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
        if let Ok(judgements) = written("inbox.jsonl", &bytes, read_judgements) {
            prop_assert!(judgements.len() <= lines);
        }
    }

    #[test]
    fn reading_arbitrary_bytes_as_rows_never_panics_and_stays_bounded(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        take_rows(&bytes, None);
    }
}

#[test]
fn deeply_nested_input_does_not_overflow_the_stack_and_is_no_configuration() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let row = format!("{{\"prompt\":{}1{}}}", open.repeat(50_000), close.repeat(50_000));
        take_rows(row.as_bytes(), None);
        let config = format!("a = {}{}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(written("run.toml", config.as_bytes(), Config::load).is_err());
    }
}
