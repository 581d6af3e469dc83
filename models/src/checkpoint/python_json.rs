//! The JSON that Python writes: `NaN`, `Infinity` and `-Infinity` are bare words, which JSON lacks.

use std::borrow::Cow;

const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Returns the text as JSON. A bare word becomes an object that transformers reads as the same number:
/// `{"__float__": "Infinity"}`. Words inside texts stay.
pub(super) fn to_json(bytes: &[u8]) -> Cow<'_, [u8]> {
    let (mut json, mut copied) = (Vec::new(), 0);
    let (mut at, mut in_text) = (0, false);
    while let Some(&byte) = bytes.get(at) {
        let word = WORDS.iter().find(|word| !in_text && bytes[at..].starts_with(word.as_bytes()));
        at += match (byte, word) {
            (_, Some(word)) => {
                json.extend(&bytes[copied..at]);
                json.extend(format!("{{\"__float__\": \"{word}\"}}").into_bytes());
                copied = at + word.len();
                word.len()
            }
            // The escaped byte does not end the text.
            (b'\\', None) if in_text => 2,
            (b'"', None) => {
                in_text = !in_text;
                1
            }
            (_, None) => 1,
        };
    }
    if copied == 0 {
        return Cow::Borrowed(bytes);
    }
    json.extend(&bytes[copied..]);
    Cow::Owned(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_words_become_objects_and_texts_stay() {
        let python = br#"{"a": Infinity, "b": [-Infinity, NaN], "c": "NaN \" Infinity", "d\\": NaN}"#;
        let json: serde_json::Value = serde_json::from_slice(&to_json(python)).expect("json");
        let float = |word: &str| serde_json::json!({"__float__": word});
        assert_eq!(
            json,
            serde_json::json!({"a": float("Infinity"), "b": [float("-Infinity"), float("NaN")],
                "c": "NaN \" Infinity", "d\\": float("NaN")})
        );
    }

    #[test]
    fn json_is_not_copied() {
        for json in [br#"{"a": "Infinity", "b": -1}"#.as_slice(), b"", b"\"\\", b"\"NaN"] {
            assert!(matches!(to_json(json), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn words_where_no_value_belongs_are_still_an_error() {
        for python in [b"{NaN: 1}".as_slice(), b"[1Infinity]", b"NaNNaN"] {
            assert!(serde_json::from_slice::<serde_json::Value>(&to_json(python)).is_err());
        }
    }
}
