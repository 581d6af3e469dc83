use std::io::Cursor;

use dissent_domain::training::{Demonstration, Dialogue, Message, Preference, Role};
use dissent_models::template::Conversation;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::jsonl::Fault;
use crate::jsonl::FieldErrorKind::{
    Count, Empty, Format, Inconsistent, Invalid, Missing, NotFinite, OutOfRange, WrongType,
};
use crate::required::{file as required_file, optional};

fn read_with(input: impl AsRef<[u8]>, options: &ReadOptions) -> Result<Dataset, InputError> {
    let lines = JsonLines::new("in.jsonl", Cursor::new(input.as_ref().to_vec()));
    Dataset::from_lines("in.jsonl".to_owned(), lines, options)
}

fn read(input: impl AsRef<[u8]>) -> Dataset {
    read_with(input, &ReadOptions::default()).unwrap()
}

fn error(input: impl AsRef<[u8]>) -> InputError {
    read_with(input, &ReadOptions::default()).unwrap_err()
}

/// Returns the field of an error, and the kind of the problem.
fn field_error(error: &InputError) -> (&str, FieldErrorKind) {
    let found = error.field_error().unwrap_or_else(|| panic!("{error}"));
    (&found.field, found.kind)
}

fn preference(input: &serde_json::Value) -> Preference {
    let rows = read(input.to_string()).preferences().unwrap().rows;
    rows.into_iter().next().unwrap().value
}

fn text(text: &str) -> Dialogue {
    Dialogue::Text(text.to_owned())
}

fn turns(turns: &[(Role, &str)]) -> Dialogue {
    let message = |&(role, content): &(Role, &str)| Message { role, content: content.to_owned() };
    Dialogue::Messages(turns.iter().map(message).collect())
}

fn preference_of(prompt: Dialogue, chosen: &str, rejected: &str) -> Preference {
    let (chosen, rejected) = (chosen.to_owned(), rejected.to_owned());
    Preference { prompt, chosen, rejected, margin: 0.0, is_unsafe: None }
}

#[test]
fn an_explicit_prompt_is_kept() {
    let row = json!({"prompt": "The sky is ", "chosen": "blue.", "rejected": "green.", "margin": 0.5, "extra": [1]});
    let expected = preference_of(text("The sky is "), "blue.", "green.");
    assert_eq!(preference(&row), Preference { margin: 0.5, ..expected });
    let row = json!({
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sky?"}],
        "chosen": [{"role": "assistant", "content": "Blue."}],
        "rejected": [{"role": "assistant", "content": "Green."}],
    });
    let prompt = turns(&[(Role::System, "Be brief."), (Role::User, "Sky?")]);
    assert_eq!(preference(&row), preference_of(prompt, "Blue.", "Green."));
}

/// The expected prompts are those of `trl.extract_prompt` (1.16).
#[test]
fn an_implicit_prompt_equals_that_of_trl() {
    for (chosen, rejected, prompt, rest) in [
        ("The sky is blue.", "The sky is green.", "The sky is", [" blue.", " green."]),
        ("The sky is blue.", "The skin is.", "The sk", ["y is blue.", "in is."]),
        ("Über é1", "Über é2", "Über é", ["1", "2"]),
        ("ab", "abc", "a", ["b", "bc"]),
        ("abc", "abc", "ab", ["c", "c"]),
    ] {
        let row = json!({"chosen": chosen, "rejected": rejected});
        assert_eq!(preference(&row), preference_of(text(prompt), rest[0], rest[1]), "{chosen}");
    }
    let error = error(json!({"chosen": "a", "rejected": "b"}).to_string());
    assert_eq!(field_error(&error), ("chosen", Inconsistent));
}

#[test]
fn an_implicit_prompt_of_dialogues_is_everything_before_the_last_turn() {
    let user = json!({"role": "user", "content": "Sky?"});
    let row = json!({
        // Like UltraFeedback: a repeated prompt, and columns that other formats have.
        "prompt": "Sky?", "messages": [user],
        "chosen": [user, {"role": "assistant", "content": "Blue."}],
        "rejected": [user, {"role": "assistant", "content": "Green."}],
        "score_chosen": 8.0, "score_rejected": 5.5,
    });
    let expected = preference_of(turns(&[(Role::User, "Sky?")]), "Blue.", "Green.");
    assert_eq!(preference(&row), expected);
    let scores = ReadOptions { margins: Margins::Scores, ..ReadOptions::default() };
    let rows = read_with(row.to_string(), &scores).unwrap().preferences().unwrap().rows;
    assert_eq!(rows[0].value, Preference { margin: 2.5, ..expected });
}

#[test]
fn transcripts_are_split_into_turns() {
    let row = json!({
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Sky?\n\nAssistant: Blue.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Sky?\n\nAssistant: Green.\n\nAssistant: No.",
    });
    let prompt = turns(&[(Role::User, "Hi"), (Role::Assistant, "Hello."), (Role::User, "Sky?")]);
    assert_eq!(preference(&row), preference_of(prompt, "Blue.", "Green.\n\nAssistant: No."));
}

#[test]
fn safe_rlhf_columns_become_a_preference_with_safety_labels() {
    let row = json!({
        "prompt": "How?", "response_0": "So.", "response_1": "I will not say.",
        "better_response_id": 0, "safer_response_id": 1, "is_response_0_safe": false, "is_response_1_safe": true,
    });
    let better = preference_of(text("How?"), "So.", "I will not say.");
    assert_eq!(preference(&row), Preference { is_unsafe: Some([true, false]), ..better });
    let safer = ReadOptions { preferred: Preferred::Safer, ..ReadOptions::default() };
    let rows = read_with(row.to_string(), &safer).unwrap().preferences().unwrap().rows;
    let expected = preference_of(text("How?"), "I will not say.", "So.");
    assert_eq!(rows[0].value, Preference { is_unsafe: Some([false, true]), ..expected });
}

#[test]
fn completions_and_good_unpaired_rows_become_demonstrations() {
    let demonstrations = |input: String| match read(input).sft_rows().unwrap() {
        (SftRows::Demonstrations(rows), skipped) => {
            (rows.into_iter().map(|row| row.value).collect(), skipped)
        }
        (rows, _) => panic!("{rows:?}"),
    };
    let expected = |prompt: Dialogue| vec![Demonstration { prompt, completion: "Blue.".to_owned() }];
    let row = json!({"prompt": "Sky?", "completion": "Blue."});
    assert_eq!(demonstrations(row.to_string()), (expected(text("Sky?")), SkippedRows::default()));
    let labelled = [
        json!({"prompt": "Sky?", "completion": "Green.", "label": false}),
        json!({"prompt": "Sky?", "completion": "Blue.", "label": true}),
    ];
    let input = labelled.map(|row| row.to_string()).join("\n");
    assert_eq!(demonstrations(input), (expected(text("Sky?")), SkippedRows { rows: 1, first_line: 1 }));
    let (SftRows::Texts(rows), _) = read(json!({"text": "Once."}).to_string()).sft_rows().unwrap() else {
        panic!("a text");
    };
    assert_eq!(rows[0].value.text, "Once.");
}

#[test]
fn instructions_with_outputs_become_demonstrations() {
    let row = |input: serde_json::Value| {
        let row = json!({"instruction": "Sky?", "input": input, "output": "Blue."});
        let (SftRows::Demonstrations(rows), _) = read(row.to_string()).sft_rows().unwrap() else {
            panic!("{row}")
        };
        rows[0].value.prompt.clone()
    };
    assert_eq!(row(json!("")), text("Sky?"));
    assert_eq!(row(json!(null)), text("Sky?"));
    assert_eq!(row(json!("Today.")), text("Sky?\nToday."));
}

fn conversation(row: &serde_json::Value) -> Conversation {
    let (SftRows::Conversations(rows), _) = read(row.to_string()).sft_rows().unwrap() else {
        panic!("{row}")
    };
    rows.into_iter().next().unwrap().value
}

#[test]
fn messages_keep_the_keys_that_templates_read_and_lose_those_without_a_value() {
    let call = json!([{"function": {"name": "sky", "arguments": {"at": "noon", "in": null}}}]);
    let row = json!({
        "messages": [
            {"role": "user", "content": "Sky?", "tool_calls": null},
            {"role": "assistant", "content": null, "tool_calls": call, "reasoning_content": "hm"},
            {"role": "tool", "name": "sky", "content": "blue"},
            {"role": "assistant", "content": "Blue."},
        ],
        "tools": "[{\"name\": \"sky\"}]",
        "chat_template_kwargs": {"enable_thinking": false, "other": null},
    });
    let read = conversation(&row);
    let call = json!([{"function": {"name": "sky", "arguments": {"at": "noon"}}}]);
    let expected = json!([
        {"role": "user", "content": "Sky?"},
        {"role": "assistant", "content": null, "tool_calls": call, "reasoning_content": "hm"},
        {"role": "tool", "name": "sky", "content": "blue"},
        {"role": "assistant", "content": "Blue."},
    ]);
    assert_eq!(json!(read.messages), expected);
    assert_eq!(read.tools, Some(json!([{"name": "sky"}])));
    assert_eq!(json!(read.template_arguments), json!({"enable_thinking": false}));
}

#[test]
fn turns_of_sharegpt_become_messages() {
    let row = json!({"conversations": [
        {"from": "system", "value": "Be brief."}, {"from": "human", "value": "Sky?"}, {"from": "gpt", "value": "Blue."},
    ]});
    let roles: Vec<_> = conversation(&row).messages.iter().map(|turn| turn["role"].clone()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    let prompts = read(row.to_string()).prompts().unwrap();
    assert_eq!(prompts[0].value, turns(&[(Role::System, "Be brief."), (Role::User, "Sky?")]));
}

#[test]
fn a_plain_prompt_before_turns_is_a_turn_of_the_user() {
    let answer = |content: &str| json!([{"role": "assistant", "content": content}]);
    let row = json!({"prompt": "Sky?", "chosen": answer("Blue."), "rejected": answer("Green.")});
    let asked = turns(&[(Role::User, "Sky?")]);
    assert_eq!(preference(&row), preference_of(asked.clone(), "Blue.", "Green."));
    let row = json!({"prompt": "Sky?", "completion": answer("Blue.")});
    let (SftRows::Demonstrations(rows), _) = read(row.to_string()).sft_rows().unwrap() else {
        panic!("{row}")
    };
    assert_eq!(rows[0].value.prompt, asked);
}

#[test]
fn null_means_absent_and_margins_may_be_negative() {
    let row = |margin: serde_json::Value| json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": margin, "score_chosen": null, "messages": null});
    assert_eq!(preference(&row(json!(null))).margin.to_bits(), 0);
    assert_eq!(preference(&row(json!(-1.5))).margin.to_bits(), (-1.5_f32).to_bits());
    let scores = ReadOptions { margins: Margins::Scores, ..ReadOptions::default() };
    let error = read_with(row(json!(1)).to_string(), &scores).unwrap_err();
    assert_eq!(field_error(&error), ("score_chosen", Missing));
}

#[test]
fn labels_are_truth_values_or_zero_and_one() {
    let rows = ["true", "1", "1.0", "false", "0", "0.0"]
        .map(|label| format!("{{\"prompt\": \"a\", \"completion\": \"b\", \"label\": {label}}}"));
    let (SftRows::Demonstrations(good), skipped) = read(rows.join("\n")).sft_rows().unwrap() else {
        panic!()
    };
    assert_eq!((good.len(), skipped), (3, SkippedRows { rows: 3, first_line: 4 }));
}

#[test]
fn unpaired_completions_of_one_prompt_are_paired_and_others_counted() {
    let rows = [("a", "1", true), ("a", "2", false), ("b", "3", true), ("a", "4", false), ("a", "5", true)];
    let lines = rows.map(|(prompt, completion, label)| {
        json!({"prompt": prompt, "completion": completion, "label": label}).to_string()
    });
    let PreferenceRows { rows, skipped } = read(lines.join("\n")).preferences().unwrap();
    let pairs: Vec<_> =
        rows.iter().map(|row| (row.line, row.value.chosen.as_str(), row.value.rejected.as_str())).collect();
    assert_eq!(pairs, [(1, "1", "2"), (1, "1", "4"), (5, "5", "2"), (5, "5", "4")]);
    assert_eq!(skipped, SkippedRows { rows: 1, first_line: 3 });
}

#[test]
fn prompts_of_any_format_are_listed_once() {
    let input = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"prompt_id\": \"x\"}\n{\"prompt\": \"a\"}";
    let prompts = read(input).prompts().unwrap();
    assert_eq!(prompts.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(prompts[1].value, text("b"));
    assert!(read("{\"text\": \"a\"}").prompts().is_err());
}

#[test]
fn an_unsuitable_format_is_rejected_with_the_suitable_ones() {
    let error = read("{\"prompt\": \"a\"}").preferences().unwrap_err();
    assert_eq!(field_error(&error), ("", Format));
    let message = error.to_string();
    let expected =
        "in.jsonl:1: the format is prompt-only (prompt), without preferences: use one of preference";
    assert!(message.starts_with(expected), "{message}");
    assert!(message.contains("safe-rlhf (prompt, response_0, response_1)"), "{message}");
}

#[test]
fn unusable_rows_are_named_by_line_and_field() {
    let ok = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;
    for (row, field, kind) in [
        (r#"{"prompt": "", "chosen": "b", "rejected": "c"}"#, "prompt", Empty),
        (r#"{"prompt": "a", "chosen": "b", "rejected": 3}"#, "rejected", WrongType),
        (
            r#"{"prompt": "a", "chosen": "b", "rejected": [{"role": "assistant", "content": "c"}]}"#,
            "rejected",
            WrongType,
        ),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1e300}"#, "margin", OutOfRange),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c", "tools": [1]}"#, "tools", Invalid),
        (r#"{"prompt": "a", "chosen": "b", "rejected": null}"#, "rejected", Missing),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c", "margin": NaN}"#, "margin", NotFinite),
        (
            r#"{"prompt": "a", "chosen": "b", "rejected": "c", "is_chosen_safe": true}"#,
            "is_rejected_safe",
            Missing,
        ),
    ] {
        let error = error(format!("{ok}\n\n{row}\n"));
        assert_eq!(field_error(&error), (field, kind), "{row}");
        assert!(matches!(error, InputError::Line { line: 3, .. }), "{row}: {error}");
    }
    for (row, is_expected) in [
        (r#"["a"]"#, (|fault| matches!(fault, Fault::NotAnObject)) as fn(&Fault) -> bool),
        (r#"{"prompt": "a", "chosen": "b""#, |fault| matches!(fault, Fault::NotJson { .. })),
    ] {
        let error = error(format!("{ok}\n\n{row}\n"));
        let InputError::Line { line: 3, fault, .. } = &error else { panic!("{error}") };
        assert!(is_expected(fault), "{row}: {error}");
    }
}

#[test]
fn unusable_fields_are_named() {
    for (row, field, kind) in [
        (r#"{"prompt": [{"role": "tool", "content": "b"}]}"#, "prompt[0].role", WrongType),
        (r#"{"prompt": [{"role": "user"}]}"#, "prompt[0].content", Missing),
        (r#"{"prompt": [["user", "hi"]]}"#, "prompt[0]", WrongType),
        (r#"{"prompt": []}"#, "prompt", Invalid),
        (r#"{"prompt": [{"role": "assistant", "content": "b"}]}"#, "prompt", Invalid),
        (r#"{"messages": [{"role": "user", "content": "b"}]}"#, "messages", Invalid),
        (r#"{"messages": []}"#, "messages", Empty),
        (r#"{"prompt": [{"role": "user", "content": "a", "name": "b"}]}"#, "prompt[0].name", WrongType),
        (
            r#"{"messages": [{"role": "assistant", "content": "b", "weight": 1}]}"#,
            "messages[0].weight",
            Invalid,
        ),
        (r#"{"messages": [{"role": "gpt", "content": "b"}]}"#, "messages[0].role", WrongType),
        (r#"{"messages": [{"role": "assistant", "content": null}]}"#, "messages[0].content", Missing),
        (r#"{"messages": [{"role": "assistant", "content": [{}]}]}"#, "messages[0].content", WrongType),
        (r#"{"messages": [{"role": "assistant", "content": "b"}], "tools": 7}"#, "tools", WrongType),
        (r#"{"messages": null}"#, "messages", Missing),
        (r#"{"messages": "[{}]"}"#, "messages", WrongType),
        (r#"{"prompt": null, "completion": "x"}"#, "prompt", Missing),
        (r#"{"prompt": "x", "chosen": "y", "rejected": null}"#, "rejected", Missing),
        (r#"{"conversations": [{"from": "observation", "value": "b"}]}"#, "conversations[0].from", Invalid),
        (
            r#"{"system": "s", "question": "2+2?", "chosen": "It is 4.", "rejected": "It is 5."}"#,
            "question",
            Format,
        ),
        (r#"{"prompt": "a", "completion": "b", "label": 2}"#, "label", WrongType),
        (r#"{"prompt": "a", "completion": "b", "label": "yes"}"#, "label", WrongType),
        (r#"{"text": ""}"#, "text", Empty),
        (r#"{"prompt": "a", "response_0": "b", "response_1": "c"}"#, "better_response_id", Missing),
        (
            r#"{"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 2}"#,
            "better_response_id",
            OutOfRange,
        ),
        (
            r#"{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"}"#,
            "rejected",
            Inconsistent,
        ),
        (r#"{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "x"}"#, "rejected", Invalid),
        (r#"{"question": "a"}"#, "", Format),
        ("\n", "", Count),
    ] {
        assert_eq!(field_error(&error(row)), (field, kind), "{row}");
    }
}

/// The texts of a few errors, as users see them.
#[test]
fn errors_name_file_line_field_value_and_way_out() {
    for (row, message) in [
        (
            r#"{"prompt": "a", "chosen": "b", "rejected": 3}"#,
            "in.jsonl:1: rejected: invalid type: integer `3`, expected a text or a list of {role, content}",
        ),
        (
            r#"{"prompt": "a", "response_0": "b", "response_1": "c"}"#,
            "in.jsonl:1: better_response_id: missing: use --preferred safer, which reads safer_response_id",
        ),
        ("\n", "in.jsonl:1: the file has no rows"),
    ] {
        assert_eq!(error(row).to_string(), message);
    }
}

#[test]
fn a_file_of_two_formats_is_rejected_at_the_first_differing_line() {
    let first = "{\"prompt\": \"a\", \"completion\": \"b\"}";
    let two = error(format!("{first}\n{first}\n{{\"prompt\": \"a\"}}"));
    assert_eq!(field_error(&two), ("", Format));
    assert_eq!(
        two.to_string(),
        "in.jsonl:3: the format is prompt-only (prompt), but line 1 has prompt-completion (prompt, completion): \
         use one format per file"
    );
    let dialogue = "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}]}";
    let two = error(format!("{{\"prompt\": \"a\"}}\n{dialogue}"));
    assert_eq!(field_error(&two), ("", Format));
    assert!(
        two.to_string().contains("in.jsonl:2: the format is prompt-only (prompt, conversational)"),
        "{two}"
    );
}

#[test]
fn a_given_format_is_not_recognised_from_the_rows() {
    let options = ReadOptions { format: Some(super::Format::PromptOnly), ..ReadOptions::default() };
    let input = "{\"prompt\": \"a\", \"completion\": 7}\n{\"prompt\": \"b\"}";
    assert_eq!(read_with(input, &options).unwrap().rows.len(), 2);
    let options = ReadOptions { format: Some(super::Format::HhRlhf), ..ReadOptions::default() };
    let error = read_with("{\"chosen\": \"a\"}", &options).unwrap_err();
    assert_eq!(field_error(&error), ("rejected", Missing));
    for format in super::Format::ALL {
        assert_eq!(format.name().parse(), Ok(format));
    }
    assert!("hh".parse::<super::Format>().unwrap_err().contains("hh-rlhf"));
}

#[test]
fn the_fingerprint_depends_on_rows_and_not_on_the_file() {
    let one = read("{\"prompt\": \"a\", \"completion\": \"b\"}").fingerprint();
    assert_eq!(read("\n{\"completion\": \"b\", \"id\": 7, \"prompt\": \"a\"}\n").fingerprint(), one);
    assert_ne!(read("{\"prompt\": \"a\", \"completion\": \"c\"}").fingerprint(), one);
}

/// Writes the same rows into every container and reads them back.
#[test]
fn the_container_of_rows_does_not_matter() {
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tables");
    let expected = Dataset::read(&tables.join("pairs-snappy.parquet"), &ReadOptions::default()).unwrap();
    let rows =
        [("w5 w6", " w7", " w8", Some(0.5)), ("w6", " w9", " w5", None), ("w7", " w5", " w6", Some(-1.0))];
    let objects: Vec<_> = rows
        .iter()
        .map(|(prompt, chosen, rejected, margin)| {
            json!({"prompt": prompt, "chosen": chosen, "rejected": rejected, "margin": margin})
        })
        .collect();
    let separated = |separator: &str| {
        let cells = rows.map(|(prompt, chosen, rejected, margin)| {
            let margin = margin.map(|margin| margin.to_string()).unwrap_or_default();
            [prompt, chosen, rejected, &margin].join(separator)
        });
        [["prompt", "chosen", "rejected", "margin"].join(separator), cells.join("\n")].join("\n").into_bytes()
    };
    let lines = objects.iter().map(|row| format!("{row}\n")).collect::<String>().into_bytes();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let contents = [
        ("rows.jsonl", lines.clone()),
        ("rows", serde_json::to_vec(&objects).unwrap()),
        ("rows.json", serde_json::to_vec_pretty(&objects).unwrap()),
        ("rows.csv", separated(",")),
        ("rows.txt", separated("\t")),
        ("rows.jsonl.zst", zstd(&lines)),
        ("rows.csv.zst", zstd(&separated(","))),
        ("rows.parquet.zst", zstd(&std::fs::read(tables.join("pairs-gzip.parquet")).unwrap())),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in contents {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let read = Dataset::read(&path, &ReadOptions::default()).unwrap();
        assert_eq!(read.fingerprint(), expected.fingerprint(), "{name}");
    }
}

#[test]
fn a_bad_row_is_named_in_every_container() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, place) in [
        ("rows.json", "[{\"prompt\": \"a\"},\n{\"prompt\": \"\"}]", ":2: prompt: must not be empty"),
        ("rows.csv", "prompt,id\n\"a\nb\",1\n\" \",2\n", ":4: prompt: must not be empty"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = Dataset::read(&path, &ReadOptions::default()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("{name}{place}")), "{error}");
    }
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tables");
    let talks = Dataset::read(&tables.join("talks.parquet"), &ReadOptions::default()).unwrap();
    assert_eq!((talks.format, talks.rows.len()), (super::Format::Messages, 2));
}

/// Reads real transcripts and restores the same texts from the rows.
#[test]
fn the_hh_rlhf_rows_are_read_without_loss() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/hh-rlhf/test.jsonl.gz");
    let Some(path) = optional(required_file(path)) else { return };
    let dataset = Dataset::read(&path, &ReadOptions::default()).unwrap();
    assert_eq!(dataset.format, super::Format::HhRlhf);
    let rows = dataset.preferences().unwrap().rows;
    assert_eq!(rows.len(), 2312);
    let mut lines = JsonLines::<Columns>::open(&path).unwrap();
    for row in rows {
        let (line, _) = lines.next().unwrap().unwrap();
        let raw: serde_json::Value = lines.reparse(line).unwrap();
        assert_eq!(line, row.line);
        let Dialogue::Messages(prompt) = &row.value.prompt else { panic!("a dialogue") };
        for (field, answer) in [("chosen", &row.value.chosen), ("rejected", &row.value.rejected)] {
            let mut transcript = String::new();
            for turn in prompt {
                let speaker = if turn.role == Role::User { "Human" } else { "Assistant" };
                transcript.push_str(&format!("\n\n{speaker}: {}", turn.content));
            }
            transcript.push_str(&format!("\n\nAssistant: {answer}"));
            assert_eq!(Some(transcript.as_str()), raw[field].as_str(), "line {line}");
        }
    }
}

/// Generates JSON values of any kind, with field names of the formats.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "\\PC{0,6}".prop_map(Into::into),
        "(\n\nHuman: a)?(\n\nAssistant: b)?(\n\nHuman:)?".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
            prop::collection::hash_map("role|content|x", inner, 0..3)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ("user|assistant|system|tool", "[ab]?")
                .prop_map(|(role, content)| json!([{"role": role, "content": content}])),
        ]
    })
}

proptest! {
    #[test]
    fn reading_any_json_lines_never_panics(
        rows in prop::collection::vec(prop::collection::hash_map(
            "prompt|chosen|rejected|completion|label|messages|conversations|tools|text|response_0|response_1|better_response_id|margin",
            any_value(), 0..6), 0..3),
        format in prop::option::of(prop::sample::select(super::Format::ALL.to_vec())),
    ) {
        let lines: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
        let options = ReadOptions { format, ..ReadOptions::default() };
        if let Ok(dataset) = read_with(lines.join("\n"), &options) {
            let _ = (dataset.clone().preferences(), dataset.clone().sft_rows(), dataset.prompts());
        }
    }

    #[test]
    fn reading_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_with(bytes, &ReadOptions::default());
    }

    #[test]
    fn reading_any_transcript_never_panics(text in "(\n\n|Human:|Assistant:| |é|x){0,20}") {
        let _ = read_with(json!({"chosen": format!("\n\nHuman:{text}"), "rejected": text}).to_string(), &ReadOptions::default());
    }
}
