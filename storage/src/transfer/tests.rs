use dissent_domain::event::{CompletionsSampled, PromptAdmitted, PromptSetAside, RewardsScored, StepName};
use dissent_domain::generation::{Completion, FinishReason};
use dissent_domain::id::PromptId;
use dissent_domain::log::LogError;
use dissent_domain::prompt::Prompt;
use proptest::prelude::*;

use super::*;
use crate::{MemoryLog, SledLog, SledOptions};

fn experiment(name: &str) -> ExperimentId {
    ExperimentId::new(name).unwrap()
}

fn facts(text: &str, numbers: &[f64]) -> Vec<Event> {
    let prompt_id = PromptId::new("p/1").unwrap();
    let completion = |&logprob: &f64| Completion {
        token_ids: vec![1, 2, 50_000],
        text: text.to_owned(),
        logprob,
        finish_reason: FinishReason::Stop,
    };
    vec![
        PromptAdmitted {
            round: 0,
            index: 0,
            prompt: Prompt {
                prompt_id: prompt_id.clone(),
                text: text.to_owned(),
                category: None,
                messages: Vec::new(),
            },
        }
        .into(),
        CompletionsSampled {
            round: 0,
            prompt: Prompt {
                prompt_id: prompt_id.clone(),
                text: text.to_owned(),
                category: None,
                messages: Vec::new(),
            },
            policy: "policy".to_owned(),
            prompt_token_ids: vec![7; 3],
            completions: numbers.iter().map(completion).collect(),
        }
        .into(),
        RewardsScored {
            round: 0,
            prompt_id: prompt_id.clone(),
            reward_model: "reward".to_owned(),
            rewards: numbers.to_vec(),
        }
        .into(),
        PromptSetAside { round: 0, prompt_id, step: StepName::Reward, reason: text.to_owned() }.into(),
    ]
}

fn add(log: &dyn EventLog, name: &str, text: &str, numbers: &[f64]) {
    let mut cause = EventId::of_experiment(&experiment(name));
    for event in facts(text, numbers) {
        let id = cause.caused(event.event_type().name(), 0);
        let event = NewEvent::new(id, Some(cause), "test", 1_700_000_000_123_456, &event).unwrap();
        let append =
            Append { experiment: experiment(name), expected: ExpectedVersion::Any, events: vec![event] };
        wait(log.append(append)).unwrap();
        cause = id;
    }
}

/// Returns a log of two experiments, interleaved.
fn sample() -> MemoryLog {
    let log = MemoryLog::new();
    let text = "line\nbreak \"quote\" \u{1F600} \u{2028}";
    add(&log, "a", text, &[-0.1, 1e-300, -123.456_789_012_345_67]);
    add(&log, "b", "", &[]);
    let again = log.read(0, 1).unwrap().remove(0);
    let id = again.event.id.caused("later", 1);
    let event = NewEvent { id, ..again.event };
    wait(log.append(Append {
        experiment: experiment("a"),
        expected: ExpectedVersion::Any,
        events: vec![event],
    }))
    .unwrap();
    log
}

fn exported(log: &dyn EventLog) -> String {
    let mut out = Vec::new();
    export(log, None, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn import_text(log: &dyn EventLog, text: &str) -> Result<Imported, StorageError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("export.jsonl");
    std::fs::write(&path, text).unwrap();
    import(log, &path)
}

#[test]
fn an_export_is_imported_byte_for_byte() {
    let log = sample();
    let dir = tempfile::tempdir().unwrap();
    let copy = SledLog::open(dir.path().join("log"), &SledOptions::default()).unwrap();
    let path = dir.path().join("out.jsonl");
    assert_eq!(export_to(&log, None, &path).unwrap(), 9);
    assert_eq!(import(&copy, &path).unwrap(), Imported { added: 9, known: 0 });
    assert_eq!(copy.read(0, 100).unwrap(), log.read(0, 100).unwrap());
    assert_eq!(exported(&copy), std::fs::read_to_string(&path).unwrap());
}

#[test]
fn importing_again_adds_nothing_and_a_longer_export_adds_the_rest() {
    let log = sample();
    let short = exported(&log);
    add(&log, "c", "later", &[0.5]);
    let long = exported(&log);
    let copy = MemoryLog::new();
    assert_eq!(import_text(&copy, &short).unwrap(), Imported { added: 9, known: 0 });
    assert_eq!(import_text(&copy, &short).unwrap(), Imported { added: 0, known: 9 });
    assert_eq!(import_text(&copy, &long).unwrap(), Imported { added: 4, known: 9 });
    assert_eq!(exported(&copy), long);
}

#[test]
fn one_experiment_is_imported_into_a_log_of_others() {
    let log = sample();
    let mut out = Vec::new();
    assert_eq!(export(&log, Some(&experiment("b")), &mut out).unwrap(), 4);
    let copy = MemoryLog::new();
    add(&copy, "z", "first", &[]);
    import_text(&copy, std::str::from_utf8(&out).unwrap()).unwrap();
    let bodies = |log: &MemoryLog| -> Vec<_> {
        log.read_stream(&experiment("b"), 0, 9).unwrap().into_iter().map(|r| (r.version, r.event)).collect()
    };
    assert_eq!(bodies(&copy), bodies(&log));
    assert_eq!(copy.head(), 8);
}

/// Imports a changed export. Expects an error at this line and field, and no added event.
fn refused(change: impl FnOnce(&mut Vec<String>), at_line: u64, at_field: &str) {
    let mut lines: Vec<String> = exported(&sample()).lines().map(str::to_owned).collect();
    change(&mut lines);
    let log = MemoryLog::new();
    match import_text(&log, &(lines.join("\n") + "\n")) {
        Err(StorageError::Import { line, field, reason, .. }) => {
            assert_eq!((line, field), (at_line, at_field), "{reason}");
        }
        other => panic!("expected line {at_line}, {at_field}: {other:?}"),
    }
    assert_eq!(log.head(), 0);
}

fn edit(line: &mut String, from: &str, to: &str) {
    assert!(line.contains(from), "{line}");
    *line = line.replacen(from, to, 1);
}

#[test]
fn an_invalid_line_is_named_and_nothing_is_added() {
    refused(|lines| lines.clear(), 1, "line");
    refused(|lines| drop(lines.remove(0)), 1, "line");
    refused(|lines| edit(&mut lines[0], "export\":1", "export\":2"), 1, "dissent_log_export");
    refused(|lines| drop(lines.pop()), 10, "line");
    refused(|lines| lines.push(lines[9].clone()), 11, "line");
    refused(|lines| lines[4].truncate(50), 5, "line");
    refused(|lines| lines[4].clear(), 5, "line");
    refused(|lines| edit(&mut lines[4], "\"actor\"", "\"author\""), 5, "line");
    refused(|lines| edit(&mut lines[4], "\"experiment\":\"a\"", "\"experiment\":\"../a\""), 5, "line");
    refused(|lines| lines.swap(3, 4), 4, "version");
    refused(|lines| edit(&mut lines[4], "\"position\":4", "\"position\":3"), 5, "position");
    refused(|lines| edit(&mut lines[4], "\"version\":4", "\"version\":5"), 5, "version");
    refused(|lines| edit(&mut lines[6], "\"experiment\":\"b\"", "\"experiment\":\"a\""), 7, "version");
    refused(|lines| edit(&mut lines[3], "_msgpack\":\"", "_msgpack\":\"!"), 4, "body_msgpack");
    refused(|lines| edit(&mut lines[3], "_msgpack\":\"", "_msgpack\":\"AAAA"), 4, "body_msgpack");
    refused(|lines| edit(&mut lines[3], "reward.rewards_scored", "reward.unheard_of"), 4, "body_msgpack");
    refused(|lines| edit(&mut lines[3], "\"schema_version\":1", "\"schema_version\":9"), 4, "body_msgpack");
    refused(|lines| edit(&mut lines[3], "[-0.1,", "[-0.2,"), 4, "body");
    refused(
        |lines| {
            let id = |line: &str| line.split("\"id\":\"").nth(1).unwrap()[..36].to_owned();
            let (first, second) = (id(&lines[1]), id(&lines[2]));
            edit(&mut lines[2], &second, &first);
        },
        3,
        "id",
    );
}

#[test]
fn an_import_that_contradicts_the_log_is_an_error() {
    let text = exported(&sample());
    let other = MemoryLog::new();
    add(&other, "a", "another text", &[1.0]);
    let before = exported(&other);
    let error = import_text(&other, &text).unwrap_err();
    assert!(matches!(&error, StorageError::Import { line: 2, field: "id", .. }), "{error}");
    let ahead = MemoryLog::new();
    let stray = NewEvent {
        id: EventId::of_experiment(&experiment("stray")),
        ..other.read(0, 1).unwrap().remove(0).event
    };
    let append = Append { experiment: experiment("b"), expected: ExpectedVersion::Any, events: vec![stray] };
    wait(ahead.append(append)).unwrap();
    let error = import_text(&ahead, &text).unwrap_err();
    assert!(matches!(&error, StorageError::Import { line: 6, field: "version", .. }), "{error}");
    assert_eq!((exported(&other), ahead.head()), (before, 1));
}

#[test]
fn an_unknown_event_is_not_exported_as_something_else() {
    let log = MemoryLog::new();
    let unknown = crate::conformance::event("a", 0, 3);
    wait(log.append(Append {
        experiment: experiment("a"),
        expected: ExpectedVersion::Any,
        events: vec![unknown],
    }))
    .unwrap();
    let error = export(&log, None, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, StorageError::Export { position: 1, .. }), "{error}");
}

#[test]
fn importing_into_a_closed_log_is_an_error() {
    let log = MemoryLog::new();
    log.close();
    let error = import_text(&log, &exported(&sample())).unwrap_err();
    assert!(matches!(error, StorageError::Log(LogError::Closed)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_text_and_number_is_exported_and_imported(text: String, numbers: Vec<f64>) {
        let log = MemoryLog::new();
        add(&log, "a", &text, &numbers);
        let copy = MemoryLog::new();
        import_text(&copy, &exported(&log)).unwrap();
        let bytes = |log: &MemoryLog| -> Vec<_> {
            log.read(0, 99).unwrap().into_iter().map(|r| (r.position, r.event.id, r.event.body)).collect()
        };
        prop_assert_eq!(bytes(&copy), bytes(&log));
    }
}

/// An export has one form only if its base64 has one text for each byte string.
mod base64_is_strict {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(BASE64_STANDARD.encode(bytes), text);
            assert_eq!(BASE64_STANDARD.decode(text).unwrap(), bytes.as_bytes());
        }
    }

    #[test]
    fn text_that_is_not_canonical_is_an_error() {
        for text in
            ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "=Zg=", "Zm 9", "Zm9v\n", "Zm9-", "Zg==Zg=="]
        {
            assert!(BASE64_STANDARD.decode(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_string_decodes_from_its_text(bytes: Vec<u8>) {
            prop_assert_eq!(BASE64_STANDARD.decode(BASE64_STANDARD.encode(&bytes)), Ok(bytes));
        }

        #[test]
        fn text_that_decodes_is_the_text_of_its_bytes(text in "[A-Za-z0-9+/=]{0,16}") {
            if let Ok(bytes) = BASE64_STANDARD.decode(&text) {
                prop_assert_eq!(BASE64_STANDARD.encode(&bytes), text);
            }
        }
    }
}
