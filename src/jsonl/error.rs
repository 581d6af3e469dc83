//! Errors of input, which name file, line and field.

use std::io;

/// Longest line, in bytes. It bounds the memory of one line.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Unusable input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file is missing or cannot be opened.
    #[error("failed to open {file}")]
    Open {
        /// The file, as given.
        file: String,
        /// The cause.
        source: io::Error,
    },
    /// Reading failed after a part of the file.
    #[error("failed to read {file} after line {line}")]
    Read {
        /// The file, as given.
        file: String,
        /// Number of lines read before.
        line: u64,
        /// The cause.
        source: io::Error,
    },
    /// The file is of a kind that is not read.
    #[error("{file} is {kind}, which is not read: {way_out}")]
    Container {
        /// The file, as given.
        file: String,
        /// The kind of file.
        kind: &'static str,
        /// The way to convert it.
        way_out: String,
    },
    /// One line is unusable.
    #[error("{file}:{line}: {fault}")]
    Line {
        /// The file, as given, or `stdin`.
        file: String,
        /// The line, from 1; the row in a JSON array or a Parquet file.
        line: u64,
        /// The problem of the line.
        fault: Fault,
    },
}

/// A problem of one line. Columns count bytes, from 1. A `field` is a path such as `completions[3].reward`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The line is not JSON.
    #[error("{}not JSON: {reason} at column {column}", prefix(field))]
    NotJson {
        /// The field at which the parser stopped; empty outside fields.
        field: String,
        /// The column at which the parser stopped.
        column: usize,
        /// The parser's message.
        reason: String,
    },
    /// One value of the object is unusable.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The line is not a JSON object.
    #[error("must be a JSON object, such as {{\"prompt_id\": \"p1\", …}}")]
    NotAnObject,
    /// The line is not UTF-8.
    #[error("{}not UTF-8 at column {column}", prefix(field))]
    NotUtf8 {
        /// The field with the invalid bytes; empty outside fields.
        field: String,
        /// The first invalid byte.
        column: usize,
    },
    /// The container cannot be read on, at this row.
    #[error("{container} is damaged or not supported: {reason}")]
    Damaged {
        /// The container.
        container: &'static str,
        /// The problem that its reader found.
        reason: String,
    },
    /// The line is longer than [`LINE_BYTES_MAX`].
    #[error("longer than {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
}

/// An unusable value of a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", prefix(field))]
pub struct FieldError {
    /// The field; empty if the problem concerns the whole line or file.
    pub field: String,
    /// The kind of the problem, for code.
    pub kind: FieldErrorKind,
    /// The required and the found value, for people.
    pub reason: String,
}

/// The kinds of [`FieldError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The field is missing.
    Missing,
    /// The value is empty.
    Empty,
    /// The value has a wrong type, or is an unknown name.
    WrongType,
    /// The number is infinite or NaN.
    NotFinite,
    /// The value is outside its range, or too long.
    OutOfRange,
    /// The value was used before, and must be unique.
    Duplicate,
    /// The value contradicts another field.
    Inconsistent,
    /// The line has not the fields of the expected format.
    Format,
    /// The file has no values, or too many.
    Count,
    /// The value breaks another rule.
    Invalid,
}

impl FieldError {
    /// Creates an error about `field`.
    pub fn new(field: impl Into<String>, kind: FieldErrorKind, reason: impl Into<String>) -> Self {
        Self { field: field.into(), kind, reason: reason.into() }
    }
}

impl InputError {
    /// Returns the unusable value, if one line has one.
    #[must_use]
    pub fn field_error(&self) -> Option<&FieldError> {
        match self {
            Self::Line { fault: Fault::Field(error), .. } => Some(error),
            Self::Line { .. } | Self::Open { .. } | Self::Read { .. } | Self::Container { .. } => None,
        }
    }
}

fn prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field}: ") }
}
