//! A row of a file, and the errors of reading one.

use std::io;

use crate::jsonl::error::{Fault, InputError, LINE_BYTES_MAX};

/// The rows of one file, in order.
pub(in crate::jsonl) trait JsonRows {
    /// Reads the next row into `row`, as the text of one JSON value. Returns its number from 1: the line
    /// where the format has lines, else the row. Returns `None` at the end.
    fn next(&mut self, row: &mut Vec<u8>) -> Result<Option<u64>, RowError>;
}

/// A row that cannot be read.
#[derive(Debug)]
pub(in crate::jsonl) enum RowError {
    /// Reading failed after this row.
    Io(u64, io::Error),
    /// This row is unusable.
    Fault(u64, Fault),
}

impl RowError {
    /// Returns the error of this row in a file.
    pub(in crate::jsonl) fn of_file(self, file: &str) -> InputError {
        let file = file.to_owned();
        match self {
            Self::Io(line, source) => InputError::Read { file, line, source },
            Self::Fault(line, fault) => InputError::Line { file, line, fault },
        }
    }
}

/// Returns the fault of a row that is longer than the limit.
pub(super) fn too_long() -> Fault {
    Fault::TooLong { limit: LINE_BYTES_MAX }
}
