//! The rows of a file as JSON texts, whatever contains them.

mod array;
mod compression;
mod container;
mod lines;
mod parquet;
mod separated;

use std::io;

pub(super) use compression::DECOMPRESSED_BYTES_MAX;
pub(super) use container::{open, open_stdin};
pub(super) use lines::Lines;

use super::read::{Fault, LINE_BYTES_MAX};

/// The rows of one file, in order.
pub(super) trait JsonRows {
    /// Reads the next row into `row`, as the text of one JSON value. Returns its number from 1: the line
    /// where the format has lines, else the row. Returns `None` at the end.
    fn next(&mut self, row: &mut Vec<u8>) -> Result<Option<u64>, RowError>;
}

/// A row that cannot be read.
#[derive(Debug)]
pub(super) enum RowError {
    /// Reading failed after this row.
    Io(u64, io::Error),
    /// This row is unusable.
    Fault(u64, Fault),
}

/// Returns the fault of a row that is longer than the limit.
fn too_long() -> Fault {
    Fault::TooLong { limit: LINE_BYTES_MAX }
}
