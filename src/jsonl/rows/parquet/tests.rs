use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A table that `tables.py` beside it has written.
fn table(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tables").join(format!("{name}.parquet"))
}

fn texts(file: File) -> Result<Vec<String>, RowError> {
    let mut rows = TableRows::open(file)?;
    let (mut row, mut found) = (Vec::new(), Vec::new());
    while let Some(number) = rows.next(&mut row)? {
        found.push(String::from_utf8(row.clone()).unwrap());
        assert_eq!(number, found.len() as u64);
    }
    Ok(found)
}

fn values(name: &str) -> Vec<Value> {
    let texts = texts(File::open(table(name)).unwrap()).unwrap();
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

#[test]
fn rows_are_the_same_under_every_compression_and_page_version() {
    let row = |prompt: &str, chosen: &str, rejected: &str, margin: Option<f64>| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected, "margin": margin, "label": null});
    let expected = [
        row("w5 w6", " w7", " w8", Some(0.5)),
        row("w6", " w9", " w5", None),
        row("w7", " w5", " w6", Some(-1.0)),
    ];
    for name in ["snappy", "zstd", "gzip", "lz4", "none", "pages"] {
        assert_eq!(values(&format!("pairs-{name}")), expected, "{name}");
    }
}

#[test]
fn lists_of_structs_become_lists_of_objects() {
    let call = json!([{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}]);
    let talk = |asked: &str, answer: &str, calls: Value| {
        json!({"messages": [
            {"role": "user", "content": asked, "tool_calls": null},
            {"role": "assistant", "content": answer, "tool_calls": calls},
        ]})
    };
    assert_eq!(values("talks"), [talk("w5", "w6", Value::Null), talk("w7", "w8", call)]);
}

#[test]
fn binary_texts_maps_and_numbers_keep_their_values() {
    let rows = texts(File::open(table("kinds")).unwrap()).unwrap();
    let expected =
        r#"{"prompt":"w5","image":{"bytes":2},"margin":NaN,"count":9223372036854775808,"tags":{"a":[1,2]}}"#;
    assert_eq!(rows, [expected]);
}

#[test]
fn an_unknown_compression_is_named() {
    let error = texts(File::open(table("pairs-brotli")).unwrap()).unwrap_err();
    let RowError::Fault(1, fault) = error else { panic!("{error:?}") };
    let message = fault.to_string();
    assert!(
        message.starts_with("Parquet is damaged or not supported:") && message.contains("brotli"),
        "{message}"
    );
}

fn damaged(bytes: &[u8]) -> File {
    TableRows::copy(bytes).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn damaged_tables_are_read_or_refused(at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
        for name in ["pairs-snappy", "pairs-zstd", "talks"] {
            let mut bytes = std::fs::read(table(name)).unwrap();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] = byte;
            }
            drop(texts(damaged(&bytes)));
        }
    }
}
