//! Data sets: rows in common formats.
//!
//! The format is given or recognised from the fields of the first line. All lines must have the same format.
//! An unusable line is an error with file, line and field; no line is dropped silently.

mod columns;
mod conversations;
mod convert;
mod format;
mod options;
mod preferences;
pub mod prompts;
mod rows;
mod split;
mod text_or_turns;
mod transcript;

pub use convert::{PreferenceRows, SftRows, SkippedRows};
pub use format::Format;
pub use options::{Margins, Preferred, ReadOptions};
pub use rows::{PromptRow, Row, Rows, TextRow, Unpaired};
pub use split::hold_out;
pub use text_or_turns::PromptField;
pub(crate) use text_or_turns::with_system;

use std::collections::BTreeSet;
use std::path::Path;

use crate::jsonl::{FieldError, FieldErrorKind, InputError, JsonLines};
use crate::text::excerpt;
use columns::{Columns, Shape};

/// Maximum number of rows in a data set.
pub const ROWS_MAX: usize = 10_000_000;

/// The rows of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The file, as given.
    pub file: String,
    /// The format of all rows.
    pub format: Format,
    /// At least one row.
    pub rows: Rows,
}

impl Dataset {
    /// Reads a file, or standard input for `-`.
    ///
    /// # Errors
    /// The first unusable line, with file, line and field.
    pub fn read(path: &Path, options: &ReadOptions) -> Result<Self, InputError> {
        let lines = JsonLines::open(path)?;
        Self::from_lines(lines.file().to_owned(), lines, options)
    }

    fn from_lines(
        file: String,
        mut lines: JsonLines<Columns>,
        options: &ReadOptions,
    ) -> Result<Self, InputError> {
        let mut first: Option<(u64, Shape)> = None;
        let mut rows: Option<Rows> = None;
        let mut unread = UnreadColumns::default();
        while let Some(line) = lines.next() {
            let (number, columns) = line?;
            if let Some(error) = first.and_then(|(_, shape)| columns.null_field(shape.format)) {
                return Err(lines.invalid(number, error));
            }
            let shape = columns.shape(options.format).map_err(|error| lines.invalid(number, error))?;
            let (first_line, first_shape) = *first.get_or_insert((number, shape));
            if shape != first_shape {
                let reason = format!(
                    "the format is {shape}, but line {first_line} has {first_shape}: use one format per file"
                );
                return Err(lines.invalid(number, FieldError::new("", FieldErrorKind::Format, reason)));
            }
            unread.add(&columns, shape.format).map_err(|error| lines.invalid(number, error))?;
            let rows = rows.get_or_insert_with(|| Rows::empty(shape.format));
            if rows.len() >= ROWS_MAX {
                let reason = format!("more than {ROWS_MAX} rows: split the file");
                return Err(lines.invalid(number, FieldError::new("", FieldErrorKind::Count, reason)));
            }
            rows.push(number, &lines, shape, options)?;
        }
        match (first, rows) {
            (Some((_, shape)), Some(rows)) => {
                unread.warn(&file, shape.format);
                Ok(Self { file, format: shape.format, rows })
            }
            _ => Err(lines.invalid(1, FieldError::new("", FieldErrorKind::Count, "the file has no rows"))),
        }
    }

    /// Returns the hash of all rows, which does not depend on the file.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.rows.fingerprint()
    }
}

/// The columns of a file that its format does not read.
#[derive(Debug, Default)]
struct UnreadColumns(BTreeSet<String>);

impl UnreadColumns {
    /// Largest number of names that are kept.
    const NAMES_MAX: usize = 32;

    /// Adds the unread columns of a row.
    ///
    /// # Errors
    /// If one changes the rendered text, which would be wrong without it.
    fn add(&mut self, columns: &Columns, format: Format) -> Result<(), FieldError> {
        for name in columns.unread(format) {
            if matches!(name, "tools" | "chat_template_kwargs") {
                let reason = format!("not read in {format} rows: only rows of messages render it");
                return Err(FieldError::new(name, FieldErrorKind::Invalid, reason));
            }
            if matches!(name, "system" | "system_prompt" | "system_message") {
                let reason =
                    format!("not read in {format} rows: write it as the first turn, with the role system");
                return Err(FieldError::new(name, FieldErrorKind::Invalid, reason));
            }
            if self.0.len() < Self::NAMES_MAX && !self.0.contains(name) {
                self.0.insert(name.to_owned());
            }
        }
        Ok(())
    }

    fn warn(&self, file: &str, format: Format) {
        if !self.0.is_empty() {
            let columns = self.0.iter().map(|name| excerpt(name, 60)).collect::<Vec<_>>().join(", ");
            tracing::warn!(file, %format, columns, "columns are not read");
        }
    }
}

/// Returns an error about a field of one row.
#[must_use]
pub fn row_error(file: &str, line: u64, error: FieldError) -> InputError {
    InputError::Line { file: file.to_owned(), line, fault: error.into() }
}

#[cfg(test)]
mod tests;
