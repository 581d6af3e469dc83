//! One JSON array of rows, pretty-printed or on one line, read element by element.

use std::io::BufRead;

use super::row::{JsonRows, RowError, too_long};
use crate::jsonl::error::{Fault, LINE_BYTES_MAX};

/// The elements of an array. The reader begins at its opening bracket.
pub(super) struct Elements<R> {
    reader: R,
    state: State,
    row: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Inside,
    Done,
}

/// The byte after an element, or the end of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Comma,
    Bracket,
    Input,
}

impl<R: BufRead> Elements<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, state: State::Before, row: 0 }
    }

    fn byte(&mut self) -> Result<Option<u8>, RowError> {
        let buffer = self.reader.fill_buf().map_err(|source| RowError::Io(self.row, source))?;
        let byte = buffer.first().copied();
        self.reader.consume(usize::from(byte.is_some()));
        Ok(byte)
    }

    fn byte_after_space(&mut self) -> Result<Option<u8>, RowError> {
        loop {
            match self.byte()? {
                Some(byte) if byte.is_ascii_whitespace() => {}
                other => return Ok(other),
            }
        }
    }

    /// Reads up to the comma or bracket that ends the element. Line ends between tokens become spaces, so
    /// that columns count from the beginning of the element.
    fn element(&mut self, row: &mut Vec<u8>) -> Result<End, RowError> {
        let (mut depth, mut in_text, mut escaped) = (0_u32, false, false);
        while let Some(byte) = self.byte()? {
            if in_text {
                in_text = escaped || byte != b'"';
                escaped = byte == b'\\' && !escaped;
            } else {
                match byte {
                    b',' if depth == 0 => return Ok(End::Comma),
                    b']' if depth == 0 => return Ok(End::Bracket),
                    b'{' | b'[' => depth = depth.saturating_add(1),
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    b'"' => in_text = true,
                    _ => {}
                }
            }
            if row.len() >= LINE_BYTES_MAX {
                return Err(RowError::Fault(self.row, too_long()));
            }
            let is_line_end = !in_text && matches!(byte, b'\n' | b'\r');
            row.push(if is_line_end { b' ' } else { byte });
        }
        Ok(End::Input)
    }

    fn fault<T>(&self, reason: &str, column: usize) -> Result<T, RowError> {
        let fault = Fault::NotJson { field: String::new(), column, reason: reason.to_owned() };
        Err(RowError::Fault(self.row.max(1), fault))
    }
}

impl<R: BufRead> JsonRows for Elements<R> {
    fn next(&mut self, row: &mut Vec<u8>) -> Result<Option<u64>, RowError> {
        row.clear();
        if self.state == State::Before {
            // The opening bracket, which was seen before.
            self.byte_after_space()?;
        }
        if self.state != State::Done {
            self.row += 1;
            let end = self.element(row)?;
            let is_empty = row.trim_ascii().is_empty();
            let is_first = self.state == State::Before;
            self.state = State::Inside;
            match end {
                End::Input => return self.fault("the array does not end with a bracket", row.len() + 1),
                End::Bracket => self.state = State::Done,
                End::Comma => {}
            }
            if !is_empty {
                return Ok(Some(self.row));
            }
            if !(is_first && end == End::Bracket) {
                return self.fault("a value is missing beside a comma", row.len() + 1);
            }
        }
        match self.byte_after_space()? {
            None => Ok(None),
            Some(_) => self.fault("text after the end of the array", 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn elements(text: &str) -> Result<Vec<Value>, String> {
        let mut elements = Elements::new(text.as_bytes());
        let (mut row, mut found) = (Vec::new(), Vec::new());
        while let Some(number) = elements.next(&mut row).map_err(|error| format!("{error:?}"))? {
            assert_eq!(number, found.len() as u64 + 1);
            assert!(!row.contains(&b'\n'));
            found.push(serde_json::from_slice(&row).map_err(|error| error.to_string())?);
        }
        Ok(found)
    }

    #[test]
    fn elements_are_split_outside_of_texts_and_nested_values() {
        let text = "[\n  {\"a\": \"x, ]\\\"}\\\\\", \"b\": [1, {\"c\": 2}]},\n  {}\n]\n";
        let expected = serde_json::from_str::<Vec<Value>>(text).unwrap();
        assert_eq!(elements(text).unwrap(), expected);
        assert_eq!(elements("[]").unwrap(), Vec::<Value>::new());
        assert_eq!(elements(" [ ] ").unwrap(), Vec::<Value>::new());
    }

    #[test]
    fn broken_arrays_are_errors() {
        for text in ["[", "[{}", "[{},", "[{},]", "[,{}]", "[{}] {}", "[{}],", "[{\"a\": \"]"] {
            assert!(elements(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_array_has_the_elements_that_serde_finds(
            texts in prop::collection::vec("\\PC{0,12}", 0..5), pretty: bool,
        ) {
            let rows: Vec<Value> = texts.iter().map(|text| serde_json::json!({"a": text, "b": [text]})).collect();
            let text = if pretty { serde_json::to_string_pretty(&rows) } else { serde_json::to_string(&rows) };
            prop_assert_eq!(elements(&text.unwrap()).unwrap(), rows);
        }

        #[test]
        fn any_text_ends_without_a_panic(text in "\\PC{0,40}") {
            drop(elements(&format!("[{text}")));
        }
    }
}
