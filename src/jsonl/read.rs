//! Reading JSON Lines, one checked value at a time.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_path_to_error::Segment;

/// Longest line, in bytes. It bounds the memory of one line.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// The beginning of messages about infinite numbers and NaN.
const NOT_FINITE: &str = "must be a finite number, found ";

/// Maximum number of input bytes that an error message quotes.
const QUOTED_BYTES_MAX: usize = 160;

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
    /// One line is unusable.
    #[error("{file}:{line}: {fault}")]
    Line {
        /// The file, as given, or `stdin`.
        file: String,
        /// The line, from 1.
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
            Self::Line { .. } | Self::Open { .. } | Self::Read { .. } => None,
        }
    }
}

fn prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field}: ") }
}

/// Iterator over the values of a JSON Lines file or stream, as `(line number, value)`.
///
/// Lines count from 1. Blank lines and a byte order mark are skipped. After an error the iterator should not
/// be used.
///
/// ```
/// use dissent::jsonl::{FieldErrorKind, JsonLines};
///
/// #[derive(serde::Deserialize)]
/// struct Prompt {
///     prompt: String,
/// }
///
/// let file = r#"{"prompt": "Why is the sky blue?"}
///
/// {"promt": "Why?"}
/// "#;
/// let mut lines = JsonLines::<Prompt>::new("prompts.jsonl", file.as_bytes());
///
/// let (line, first) = lines.next().unwrap()?;
/// assert_eq!((line, first.prompt.as_str()), (1, "Why is the sky blue?"));
///
/// let error = lines.next().unwrap().err().unwrap();
/// assert_eq!(error.to_string(), "prompts.jsonl:3: prompt: missing");
/// assert_eq!(error.field_error().unwrap().kind, FieldErrorKind::Missing);
/// # Ok::<(), dissent::jsonl::InputError>(())
/// ```
pub struct JsonLines<T> {
    reader: Box<dyn BufRead>,
    file: String,
    line: u64,
    bytes: Vec<u8>,
    line_bytes_max: usize,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    /// Opens a file, or standard input for `-`.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        if path == Path::new("-") {
            return Ok(Self::new("stdin", io::stdin().lock()));
        }
        let file = path.display().to_string();
        match File::open(path) {
            Ok(opened) => Ok(Self::new(file, BufReader::with_capacity(1 << 16, opened))),
            Err(source) => Err(InputError::Open { file, source }),
        }
    }

    /// Reads from `reader`. Errors name it `file`.
    pub fn new(file: impl Into<String>, reader: impl BufRead + 'static) -> Self {
        Self {
            reader: Box::new(reader),
            file: file.into(),
            line: 0,
            bytes: Vec::new(),
            line_bytes_max: LINE_BYTES_MAX,
            value: PhantomData,
        }
    }

    /// Returns the error for a parsed value that breaks a rule, at `field` of line `line`.
    #[must_use]
    pub fn error(&self, line: u64, field: impl Into<String>, reason: impl Into<String>) -> InputError {
        self.invalid(line, FieldError::new(field, FieldErrorKind::Invalid, reason))
    }

    /// Returns the error for an unusable value of line `line`.
    #[must_use]
    pub fn invalid(&self, line: u64, error: FieldError) -> InputError {
        InputError::Line { file: self.file.clone(), line, fault: error.into() }
    }

    /// Parses the current line again, as another type. Some fields decide the type of their line.
    ///
    /// # Errors
    /// If the line is not a value of that type.
    pub fn reparse<U: DeserializeOwned>(&self) -> Result<U, InputError> {
        parse(&self.bytes).map_err(|fault| self.line_error(fault))
    }

    /// Reads the next line into `self.bytes`, without its line end. Returns `false` at the end of the input.
    fn read_line(&mut self) -> Result<bool, InputError> {
        self.bytes.clear();
        let limit = self.line_bytes_max;
        let mut limited = self.reader.as_mut().take(limit as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.bytes).map_err(|source| InputError::Read {
            file: self.file.clone(),
            line: self.line,
            source,
        })?;
        if read == 0 {
            return Ok(false);
        }
        self.line += 1;
        if self.bytes.last() == Some(&b'\n') {
            self.bytes.pop();
        }
        if self.bytes.len() > limit {
            return Err(self.line_error(Fault::TooLong { limit }));
        }
        if self.line == 1 && self.bytes.starts_with(b"\xef\xbb\xbf") {
            self.bytes.drain(..3);
        }
        Ok(true)
    }

    fn line_error(&self, fault: Fault) -> InputError {
        InputError::Line { file: self.file.clone(), line: self.line, fault }
    }
}

impl<T: DeserializeOwned> Iterator for JsonLines<T> {
    type Item = Result<(u64, T), InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read_line() {
                Ok(false) => return None,
                Ok(true) if self.bytes.trim_ascii().is_empty() => {}
                Ok(true) => {
                    let value = parse(&self.bytes).map_err(|fault| self.line_error(fault));
                    return Some(value.map(|value| (self.line, value)));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, Fault> {
    let text = std::str::from_utf8(line).map_err(|error| not_utf8::<T>(line, error.valid_up_to()))?;
    // Serde would also read a struct from an array, by position. No format here has such lines.
    let is_object = text.trim_start().starts_with('{');
    match serde_json::from_str(text) {
        Ok(value) if is_object => Ok(value),
        Ok(_) => Err(Fault::NotAnObject),
        Err(error) if !is_object && error.is_data() => Err(Fault::NotAnObject),
        Err(_) => Err(explain::<T>(text)),
    }
}

/// Finds the field at which parsing fails. Slower than parsing, so for invalid lines only.
fn locate<T: DeserializeOwned>(text: &str) -> Option<(String, serde_json::Error)> {
    let mut json = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(error) => Some((field_path(error.path()), error.into_inner())),
        Ok(_) => json.end().err().map(|error| (String::new(), error)),
    }
}

/// Formats a path as `completions[3].reward`, up to the last complete key. Keys are escaped input text.
fn field_path(path: &serde_path_to_error::Path) -> String {
    let mut field = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => field.push_str(&format!("[{index}]")),
            Segment::Map { key: name } | Segment::Enum { variant: name } => {
                if !field.is_empty() {
                    field.push('.');
                }
                field.extend(name.escape_debug());
            }
            Segment::Unknown => break,
        }
    }
    shortened(&field)
}

fn not_utf8<T: DeserializeOwned>(line: &[u8], valid: usize) -> Fault {
    // The valid text ends inside the field with the invalid byte.
    let text = line.get(..valid).and_then(|line| std::str::from_utf8(line).ok());
    let field = text.and_then(locate::<T>).map_or_else(String::new, |(field, _)| field);
    Fault::NotUtf8 { field, column: valid + 1 }
}

fn explain<T: DeserializeOwned>(text: &str) -> Fault {
    let Some((field, error)) = locate::<T>(text) else {
        // Unreachable: parsing this line failed before.
        return Fault::NotJson { field: String::new(), column: 1, reason: "unreadable".to_owned() };
    };
    let message = error.to_string();
    let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
    if !error.is_data() {
        return match non_finite_token(text, error.column()) {
            Some(token) => {
                let reason = format!("{NOT_FINITE}{}", shortened(token));
                FieldError::new(field, FieldErrorKind::NotFinite, reason).into()
            }
            None => Fault::NotJson { field, column: error.column(), reason: shortened(reason) },
        };
    }
    match reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        Some(missing) => {
            let field = if field.is_empty() { missing.to_owned() } else { format!("{field}.{missing}") };
            FieldError::new(field, FieldErrorKind::Missing, "missing").into()
        }
        None => {
            let is_not_finite = reason.starts_with(NOT_FINITE);
            let kind = if is_not_finite { FieldErrorKind::NotFinite } else { FieldErrorKind::WrongType };
            FieldError::new(field, kind, shortened(reason)).into()
        }
    }
}

/// Returns the word around `column` (in bytes, from 1) if it is a NaN, an infinity or a number too large for
/// a double. Other languages write such words into JSON.
fn non_finite_token(text: &str, column: usize) -> Option<&str> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let bytes = text.as_bytes();
    let at = column.checked_sub(1)?.min(bytes.len());
    let start = at - bytes[..at].iter().rev().take_while(|byte| is_word(byte)).count();
    let end = at + bytes[at..].iter().take_while(|byte| is_word(byte)).count();
    let token = text.get(start..end)?;
    // Rust parses `nan`, `inf` and `infinity` in any case, and 1e999 as infinite.
    token.parse::<f64>().is_ok_and(|number| !number.is_finite()).then_some(token)
}

fn shortened(text: &str) -> String {
    if text.len() <= QUOTED_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(QUOTED_BYTES_MAX);
    format!("{}…", &text[..end])
}

/// Deserialises a number that is neither NaN nor infinite, for `#[serde(deserialize_with = "finite")]`.
///
/// # Errors
/// If the value is not a finite number.
pub fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    deserializer.deserialize_f64(FiniteVisitor)
}

/// Deserialises an optional finite number, for `#[serde(default, deserialize_with = "finite_if_present")]`. A
/// `null`, which some programs write for NaN, is an error.
///
/// # Errors
/// If the key is present and its value is not a finite number.
pub fn finite_if_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    finite(deserializer).map(Some)
}

struct FiniteVisitor;

impl Visitor<'_> for FiniteVisitor {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a finite number")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<f64, E> {
        if value.is_finite() { Ok(value) } else { Err(E::custom(format_args!("{NOT_FINITE}{value}"))) }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<f64, E> {
        Ok(value as f64)
    }
}

/// Reads a `T` from a JSON object only. Serde alone would also read a struct from an array, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests;
