//! Comma- and tab-separated values with a header. Each cell becomes a text, a number or a JSON value,
//! depending on its column.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use csv::{ByteRecord, ReaderBuilder};
use serde::de::IgnoredAny;

use super::row::{JsonRows, RowError, too_long};
use crate::jsonl::error::{Fault, FieldError, FieldErrorKind, LINE_BYTES_MAX};

/// Columns of numbers and truth values. The cells of other columns are texts, even `42` and `true`.
const NUMBERS: [&str; 18] = [
    "reward",
    "logprob",
    "logprob_mean",
    "tokens",
    "margin",
    "label",
    "score_chosen",
    "score_rejected",
    "better_response_id",
    "safer_response_id",
    "is_response_0_safe",
    "is_response_1_safe",
    "is_chosen_safe",
    "is_rejected_safe",
    "logprob",
    "logprob_mean",
    "tokens",
    "reward",
];

/// Columns whose values are lists or objects, which a cell holds as JSON.
const STRUCTURED: [&str; 6] =
    ["messages", "conversations", "completions", "tools", "token_ids", "chat_template_kwargs"];

/// The records of a file.
pub(super) struct Records {
    reader: csv::Reader<RecordLimit<Box<dyn BufRead>>>,
    /// Bytes that the current record may still have.
    left: Rc<Cell<usize>>,
    header: Vec<String>,
    record: ByteRecord,
    line: u64,
}

impl Records {
    /// Creates a reader, which reads the header with the first record.
    pub(super) fn new(reader: Box<dyn BufRead>, delimiter: u8) -> Self {
        let left = Rc::new(Cell::new(0));
        let reader = RecordLimit { inner: reader, left: Rc::clone(&left) };
        let reader = ReaderBuilder::new().has_headers(false).delimiter(delimiter).from_reader(reader);
        Self { reader, left, header: Vec::new(), record: ByteRecord::new(), line: 0 }
    }

    fn read(&mut self) -> Result<bool, RowError> {
        self.left.set(LINE_BYTES_MAX);
        let read = self.reader.read_byte_record(&mut self.record).map_err(|error| {
            let line = error.position().map_or(self.line + 1, csv::Position::line);
            match error.into_kind() {
                csv::ErrorKind::Io(source) if source.kind() == io::ErrorKind::FileTooLarge => {
                    RowError::Fault(line, too_long())
                }
                csv::ErrorKind::Io(source) => RowError::Io(self.line, source),
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    let reason = format!(
                        "{len} cells, but the header has {expected_len}: quote cells that contain the separator or line ends"
                    );
                    RowError::Fault(line, FieldError::new("", FieldErrorKind::Count, reason).into())
                }
                other @ (csv::ErrorKind::Utf8 { .. }
                | csv::ErrorKind::Seek
                | csv::ErrorKind::Serialize(_)
                | csv::ErrorKind::Deserialize { .. }
                | _) => RowError::Io(self.line, io::Error::other(format!("{other:?}"))),
            }
        })?;
        self.line = self.record.position().map_or(self.line, csv::Position::line);
        Ok(read)
    }

    fn cell(&self, index: usize) -> Result<&str, RowError> {
        let cell = self.record.get(index).unwrap_or_default();
        std::str::from_utf8(cell).map_err(|error| {
            let field = self.header.get(index).cloned().unwrap_or_default();
            RowError::Fault(self.line, Fault::NotUtf8 { field, column: error.valid_up_to() + 1 })
        })
    }

    fn read_header(&mut self) -> Result<bool, RowError> {
        if !self.read()? {
            return Ok(false);
        }
        let names = (0..self.record.len()).map(|index| Ok(self.cell(index)?.trim().to_owned()));
        self.header = names.collect::<Result<_, RowError>>()?;
        for (index, name) in self.header.iter().enumerate() {
            if !name.is_empty() && self.header[..index].contains(name) {
                let reason = "the header has this column twice: use distinct names";
                let error = FieldError::new(name, FieldErrorKind::Duplicate, reason);
                return Err(RowError::Fault(self.line, error.into()));
            }
        }
        Ok(true)
    }
}

impl JsonRows for Records {
    fn next(&mut self, row: &mut Vec<u8>) -> Result<Option<u64>, RowError> {
        if self.header.is_empty() && !self.read_header()? {
            return Ok(None);
        }
        if !self.read()? {
            return Ok(None);
        }
        row.clear();
        for index in 0..self.header.len() {
            row.push(if index == 0 { b'{' } else { b',' });
            write_text(row, &self.header[index]);
            row.push(b':');
            write_cell(row, &self.header[index], self.cell(index)?);
        }
        row.push(b'}');
        Ok(Some(self.line))
    }
}

/// Writes a cell as JSON. An empty cell is a missing value.
fn write_cell(row: &mut Vec<u8>, column: &str, cell: &str) {
    let text = cell.trim();
    if cell.is_empty() {
        row.extend(b"null");
    } else if NUMBERS.contains(&column) {
        match (text.to_ascii_lowercase(), text.parse::<f64>()) {
            (truth, _) if truth == "true" || truth == "false" => row.extend(truth.as_bytes()),
            // NaN and infinities are refused with the name of their field when the row is parsed.
            (_, Ok(number)) if !number.is_finite() || is_json(text) => row.extend(text.as_bytes()),
            (_, Ok(number)) => row.extend(number.to_string().as_bytes()),
            (_, Err(_)) => write_text(row, cell),
        }
    } else if (STRUCTURED.contains(&column) || text.starts_with("[{")) && is_json(text) {
        row.extend(text.as_bytes());
    } else {
        write_text(row, cell);
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn write_text(row: &mut Vec<u8>, text: &str) {
    // Writing a text to memory cannot fail.
    let _ = serde_json::to_writer(row, text);
}

/// A reader that fails within a record that is too long: an open quotation mark swallows the rest of a file.
struct RecordLimit<R> {
    inner: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for RecordLimit<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.get().checked_sub(read) {
            Some(left) => self.left.set(left),
            None => return Err(io::ErrorKind::FileTooLarge.into()),
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn rows(text: &str, delimiter: u8) -> Result<Vec<(u64, String)>, String> {
        let mut records = Records::new(Box::new(Cursor::new(text.to_owned())), delimiter);
        let (mut row, mut found) = (Vec::new(), Vec::new());
        while let Some(line) = records.next(&mut row).map_err(|error| format!("{error:?}"))? {
            found.push((line, String::from_utf8(row.clone()).unwrap()));
        }
        Ok(found)
    }

    #[test]
    fn cells_become_texts_numbers_and_lists() {
        let text = "prompt,label,margin,messages,note\n\"a, \"\"b\"\"\nc\",True,.5,\"[{\"\"role\"\":\"\"user\"\"}]\",\n42,0,NaN,[x,7\n";
        let expected = [
            (
                2,
                r#"{"prompt":"a, \"b\"\nc","label":true,"margin":0.5,"messages":[{"role":"user"}],"note":null}"#,
            ),
            (4, r#"{"prompt":"42","label":0,"margin":NaN,"messages":"[x","note":"7"}"#),
        ];
        assert_eq!(rows(text, b',').unwrap(), expected.map(|(line, row)| (line, row.to_owned())));
        assert_eq!(rows("\u{feff}a\tb\n1\t2\n", b'\t').unwrap(), [(2, r#"{"a":"1","b":"2"}"#.to_owned())]);
        assert_eq!(rows("", b',').unwrap(), []);
    }

    #[test]
    fn a_record_with_another_number_of_cells_is_named_by_its_line() {
        let error = rows("a,b\n1,2\n3\n", b',').unwrap_err();
        assert!(error.contains("Fault(3") && error.contains("1 cells, but the header has 2"), "{error}");
        assert!(rows("a,a\n1,2\n", b',').unwrap_err().contains("twice"));
    }

    #[test]
    fn an_open_quotation_mark_ends_at_the_limit() {
        let endless = Cursor::new(b"a\n\"".to_vec()).chain(io::repeat(b'x'));
        let mut records = Records::new(Box::new(io::BufReader::new(endless)), b',');
        let error = records.next(&mut Vec::new()).unwrap_err();
        assert!(matches!(error, RowError::Fault(_, Fault::TooLong { .. })), "{error:?}");
    }
}
