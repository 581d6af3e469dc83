//! JSON Lines.

use std::io::{BufRead, Read as _};

use super::row::{JsonRows, RowError};
use crate::jsonl::error::{Fault, LINE_BYTES_MAX};

/// Lines of a reader, each with one JSON value. Blank lines and a byte order mark are skipped.
pub(in crate::jsonl) struct Lines {
    reader: Box<dyn BufRead>,
    line: u64,
    pub(in crate::jsonl) line_bytes_max: usize,
}

impl Lines {
    pub(in crate::jsonl) fn new(reader: impl BufRead + 'static) -> Self {
        Self { reader: Box::new(reader), line: 0, line_bytes_max: LINE_BYTES_MAX }
    }

    /// Reads the next line without its line end. Returns `false` at the end of the input.
    fn read_line(&mut self, bytes: &mut Vec<u8>) -> Result<bool, RowError> {
        bytes.clear();
        let limit = self.line_bytes_max;
        let mut limited = self.reader.as_mut().take(limit as u64 + 1);
        let read = limited.read_until(b'\n', bytes).map_err(|source| RowError::Io(self.line, source))?;
        if read == 0 {
            return Ok(false);
        }
        self.line += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.len() > limit {
            return Err(RowError::Fault(self.line, Fault::TooLong { limit }));
        }
        if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        Ok(true)
    }
}

impl JsonRows for Lines {
    fn next(&mut self, row: &mut Vec<u8>) -> Result<Option<u64>, RowError> {
        while self.read_line(row)? {
            if !row.trim_ascii().is_empty() {
                return Ok(Some(self.line));
            }
        }
        Ok(None)
    }
}
