use std::io::Cursor;

use proptest::prelude::*;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
struct Prompt {
    name: String,
    #[serde(default, deserialize_with = "finite_if_present")]
    weight: Option<f64>,
    #[serde(default)]
    answers: Vec<Object<Answer>>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Answer {
    #[serde(deserialize_with = "finite")]
    score: f64,
}

fn lines(input: impl AsRef<[u8]>) -> JsonLines<Prompt> {
    JsonLines::new("in.jsonl", Cursor::new(input.as_ref().to_vec()))
}

fn error(input: impl AsRef<[u8]>) -> String {
    match lines(input).collect::<Result<Vec<_>, _>>() {
        Ok(values) => panic!("read {values:?}"),
        Err(error) => error.to_string(),
    }
}

fn names(input: impl AsRef<[u8]>) -> Vec<(u64, String)> {
    lines(input).map(|read| read.map(|(line, prompt)| (line, prompt.name)).unwrap()).collect()
}

#[test]
fn lines_are_numbered_from_one_and_blank_lines_count_and_are_skipped() {
    let input = "\n{\"name\":\"a\"}\r\n  \t\n\r\n{\"name\":\"b\",\"unknown\":[{}]}";
    assert_eq!(names(input), [(2, "a".to_owned()), (5, "b".to_owned())]);
    assert_eq!(names(""), []);
    assert_eq!(names("\n\n"), []);
}

#[test]
fn a_byte_order_mark_is_skipped() {
    assert_eq!(names("\u{feff}{\"name\":\"a\"}\n"), [(1, "a".to_owned())]);
}

#[test]
fn numbers_that_are_not_finite_are_named_with_their_field() {
    for token in ["NaN", "nan", "-NaN", "Infinity", "-Infinity", "inf", "1e999", "-1e999", "1e+400"] {
        let line = format!("{{\"name\":\"a\",\"answers\":[{{\"score\":1}},{{\"score\":{token}}}]}}");
        let expected = format!("in.jsonl:2: answers[1].score: must be a finite number, found {token}");
        assert_eq!(error(format!("\n{line}")), expected);
    }
    assert_eq!(
        error("{\"name\":\"a\",\"weight\":NaN}"),
        "in.jsonl:1: weight: must be a finite number, found NaN"
    );
}

#[test]
fn null_is_not_an_absent_number() {
    assert_eq!(lines("{\"name\":\"a\"}").next().unwrap().unwrap().1.weight, None);
    assert_eq!(
        error("{\"name\":\"a\",\"weight\":null}"),
        "in.jsonl:1: weight: invalid type: null, expected a finite number"
    );
}

#[test]
fn missing_and_mistyped_fields_are_named() {
    assert_eq!(error("{}"), "in.jsonl:1: name: missing");
    assert_eq!(error("{\"name\":\"a\",\"answers\":[{}]}"), "in.jsonl:1: answers[0].score: missing");
    assert_eq!(error("{\"name\":3}"), "in.jsonl:1: name: invalid type: integer `3`, expected a string");
    assert_eq!(
        error("{\"name\":\"a\",\"answers\":[{\"score\":\"1\"}]}"),
        "in.jsonl:1: answers[0].score: invalid type: string \"1\", expected a finite number"
    );
    assert_eq!(error("{\"name\":\"a\",\"name\":\"b\"}"), "in.jsonl:1: duplicate field `name`");
}

#[test]
fn an_array_is_not_read_as_an_object_by_position() {
    assert!(error("[\"a\",1,[]]").contains("must be a JSON object"));
    assert!(error("7").contains("must be a JSON object"));
    assert_eq!(
        error("{\"name\":\"a\",\"answers\":[[1.5]]}"),
        "in.jsonl:1: answers[0]: invalid type: sequence, expected an object"
    );
}

#[test]
fn invalid_json_is_named_with_its_column() {
    assert_eq!(error("hello"), "in.jsonl:1: not JSON: expected value at column 1");
    assert_eq!(error("{\"name\":\"a\"} x"), "in.jsonl:1: not JSON: trailing characters at column 14");
    assert_eq!(
        error("{\"name\":\"a\",\"answers\":[{\"score\":yes}]}"),
        "in.jsonl:1: answers[0].score: not JSON: expected value at column 33"
    );
    assert!(
        error("{\n \"name\": \"a\"\n}")
            .starts_with("in.jsonl:1: not JSON: the object does not end on its line")
    );
    assert_eq!(error("{\"name\":\"a\","), "in.jsonl:1: not JSON: EOF while parsing a value at column 12");
    assert!(error("{\"name\":\"a").starts_with("in.jsonl:1: name: not JSON: EOF"));
}

#[test]
fn invalid_utf8_is_named_with_its_field_and_column() {
    assert_eq!(error(b"{\"name\":\"a\xff\"}"), "in.jsonl:1: name: not UTF-8 at column 11");
    assert_eq!(error(b"\xff\xfe{\0"), "in.jsonl:1: not UTF-8 at column 1");
}

#[test]
fn a_line_beyond_the_limit_is_rejected_before_its_end_is_read() {
    let read = |line: &str| {
        let mut rows = Lines::new(Cursor::new(line.as_bytes().to_vec()));
        rows.line_bytes_max = 12;
        let mut lines = JsonLines::<Prompt>::of_rows(Box::new(rows), "in.jsonl".to_owned());
        let result = lines.next().unwrap().map(|(_, prompt)| prompt.name);
        assert!(lines.bytes.capacity() < 64, "{}", lines.bytes.capacity());
        result.map_err(|error| error.to_string())
    };
    assert_eq!(
        read("{\"name\":\"a\"}\n{\"name\":\"b\"}"),
        Ok("a".to_owned()),
        "12 bytes without the line end"
    );
    assert_eq!(read("{\"name\":\"a\"}"), Ok("a".to_owned()));
    assert_eq!(read("{\"name\":\"aa\"}\n"), Err("in.jsonl:1: longer than 12 bytes".to_owned()));
    assert_eq!(read(&"x".repeat(100_000)), Err("in.jsonl:1: longer than 12 bytes".to_owned()));
}

#[test]
fn a_message_quotes_a_short_part_of_a_long_value() {
    let message = error(format!("{{\"name\":\"a\",\"weight\":\"{}\"}}", "é".repeat(100_000)));
    assert!(message.len() < 300 && message.ends_with('…'), "{message}");
}

#[test]
fn a_message_escapes_quoted_keys() {
    let message = error("{\"name\":\"a\",\"\\u001b[31m\":NaN}");
    assert_eq!(message, "in.jsonl:1: \\u{1b}[31m: must be a finite number, found NaN");
}

#[test]
fn a_missing_file_is_named() {
    let error = JsonLines::<Prompt>::open(Path::new("no/such.jsonl")).err().unwrap();
    assert_eq!(error.to_string(), "failed to open no/such.jsonl");
}

#[test]
fn reading_a_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = || JsonLines::<Prompt>::open(folder.path()).err().unwrap().to_string();
    assert!(error().contains("is a folder, which is not read: name a file"), "{}", error());
    std::fs::write(folder.path().join("data-0.arrow"), "").unwrap();
    assert!(error().contains("such as ") && error().contains("data-0.arrow"), "{}", error());
    std::fs::write(folder.path().join("state.json"), "").unwrap();
    assert!(error().contains("save_to_disk") && error().contains("load_from_disk"), "{}", error());
}

proptest! {
    #[test]
    fn reading_any_bytes_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        lines(&bytes).take(300).for_each(drop);
    }

    #[test]
    fn errors_of_json_like_text_name_the_line(
        input in "(\\PC|[{}\\[\\]\":,\n0-9eE.+\\-]|\"name\":|\"weight\":|\"answers\":|\"score\":|NaN|null|\\\\u12){0,40}",
    ) {
        for read in lines(&input).take(300) {
            match read {
                Ok((line, _)) => prop_assert!(line >= 1),
                Err(error) => prop_assert!(error.to_string().starts_with("in.jsonl:")),
            }
        }
    }

    #[test]
    fn a_line_with_one_damaged_byte_never_yields_a_non_finite_number(
        at in 0..60_usize, byte: u8,
    ) {
        let mut line = b"{\"name\":\"prompt\",\"weight\":-12.5e3,\"answers\":[{\"score\":1.0}]}".to_vec();
        line[at] = byte;
        for (_, prompt) in lines(&line).map_while(Result::ok) {
            prop_assert!(prompt.weight.is_none_or(f64::is_finite));
            prop_assert!(prompt.answers.iter().all(|Object(answer)| answer.score.is_finite()));
        }
    }

    #[test]
    fn doubles_are_read_exactly(weight in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL) {
        let line = serde_json::json!({ "name": "a", "weight": weight }).to_string();
        let read = lines(line).next().unwrap().unwrap().1.weight.unwrap();
        prop_assert_eq!(read.to_bits(), weight.to_bits());
    }
}
