//! Data sets: JSON Lines, plain or gzipped, in the formats that people already have.
//!
//! The format is recognised from the fields of the first line, or given; every other line must have the same.
//! A line that cannot be used is an error that names file, line and field: nothing is dropped in silence.

mod columns;
mod compared;
mod convert;
mod file;
mod format;
mod options;
pub mod prompts;
mod rows;
mod split;
mod text_or_turns;
mod transcript;

pub use convert::{ImitationRows, PreferenceRows, SkippedRows};
pub use format::Format;
pub use options::{Margins, Preferred, ReadOptions};
pub use rows::{PromptRow, Row, Rows, TextRow, Unpaired};
pub use split::hold_back;

use std::path::Path;

use crate::jsonl::{Fault, InputError, JsonLines};
use columns::{Columns, Shape};

/// Most rows of a data set.
pub const ROWS_MAX: usize = 10_000_000;

/// The rows of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The file, as it was given.
    pub file: String,
    /// The format it has.
    pub format: Format,
    /// At least one row.
    pub rows: Rows,
}

impl Dataset {
    /// Reads a file, gzipped or not (`-`: stdin).
    ///
    /// # Errors
    /// The first line that cannot be used: file, line and field.
    pub fn read(path: &Path, options: &ReadOptions) -> Result<Self, InputError> {
        let file = if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() };
        Self::from_lines(file.clone(), file::open(path, file)?, options)
    }

    fn from_lines(
        file: String,
        mut lines: JsonLines<Columns>,
        options: &ReadOptions,
    ) -> Result<Self, InputError> {
        let mut first: Option<(u64, Shape)> = None;
        let mut rows: Option<Rows> = None;
        while let Some(line) = lines.next() {
            let (number, columns) = line?;
            let shape = columns.shape(options.format).map_err(|reason| lines.error(number, "", reason))?;
            let (first_line, first_shape) = *first.get_or_insert((number, shape));
            if shape != first_shape {
                let reason =
                    format!("{shape}, but line {first_line} is {first_shape}: a file has one format");
                return Err(lines.error(number, "", reason));
            }
            let rows = rows.get_or_insert_with(|| Rows::none_yet(shape.format));
            if rows.len() >= ROWS_MAX {
                return Err(lines.error(number, "", format!("more than {ROWS_MAX} rows")));
            }
            rows.push(number, &lines, shape, options)?;
        }
        match (first, rows) {
            (Some((_, shape)), Some(rows)) => Ok(Self { file, format: shape.format, rows }),
            _ => Err(lines.error(1, "", "there is no row in the file")),
        }
    }

    /// Names the content: the hash of all rows, whatever file they came in.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.rows.fingerprint()
    }
}

/// An error about one row of a file.
#[must_use]
pub fn row_error(file: &str, line: u64, field: &str, reason: impl Into<String>) -> InputError {
    let fault = Fault::Field { field: field.to_owned(), reason: reason.into() };
    InputError::Line { file: file.to_owned(), line, fault }
}

#[cfg(test)]
mod tests;
