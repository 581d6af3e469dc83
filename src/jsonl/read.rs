//! Reading rows, one checked value at a time.

use std::fmt;
use std::io::BufRead;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_path_to_error::Segment;

use super::error::{Fault, FieldError, FieldErrorKind, InputError};
use super::rows;
use super::rows::lines::Lines;
use super::rows::row::JsonRows;

/// The beginning of messages about infinite numbers and NaN.
const NOT_FINITE: &str = "must be a finite number, found ";

/// Maximum number of input bytes that an error message quotes.
const QUOTED_BYTES_MAX: usize = 160;

/// Iterator over the rows of a file or stream, as `(number, value)`.
///
/// A file is JSON Lines, one JSON array, comma- or tab-separated values with a header, or Parquet, and may be
/// compressed with gzip or Zstandard. Its first bytes decide. Numbers count lines, or rows of an array or a
/// Parquet file, from 1. Blank lines and a byte order mark are skipped. After an error the iterator should
/// not be used.
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
    rows: Box<dyn JsonRows>,
    file: String,
    bytes: Vec<u8>,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    /// Opens a file in any container, or standard input for `-`.
    ///
    /// # Errors
    /// If the file cannot be opened, or its container is not read.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        if path == Path::new("-") {
            let file = "stdin".to_owned();
            return Ok(Self::of_rows(rows::open_stdin(&file)?, file));
        }
        let file = path.display().to_string();
        Ok(Self::of_rows(rows::open(path, &file)?, file))
    }

    /// Reads JSON Lines from `reader`. Errors name it `file`.
    pub fn new(file: impl Into<String>, reader: impl BufRead + 'static) -> Self {
        Self::of_rows(Box::new(Lines::new(reader)), file.into())
    }

    pub(super) fn of_rows(rows: Box<dyn JsonRows>, file: String) -> Self {
        Self { rows, file, bytes: Vec::new(), value: PhantomData }
    }

    /// Returns the name of the file in errors.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
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

    /// Parses a row again, as another type: the current row, whose number is `line`. Some fields decide the
    /// type of their row.
    ///
    /// # Errors
    /// If the row is not a value of that type.
    pub fn reparse<U: DeserializeOwned>(&self, line: u64) -> Result<U, InputError> {
        parse(&self.bytes).map_err(|fault| InputError::Line { file: self.file.clone(), line, fault })
    }
}

impl<T: DeserializeOwned> Iterator for JsonLines<T> {
    type Item = Result<(u64, T), InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.rows.next(&mut self.bytes) {
            Ok(None) => None,
            Ok(Some(line)) => Some(self.reparse(line).map(|value| (line, value))),
            Err(error) => Some(Err(error.of_file(&self.file))),
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
    if text.trim() == "{" {
        let reason =
            "the object does not end on its line: write each object on one line, as jq -c does".to_owned();
        return Fault::NotJson { field: String::new(), column: text.len(), reason };
    }
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
    field_error(field, reason).into()
}

/// Returns the error of a value that has a wrong type or is missing, from serde's message.
fn field_error(field: String, reason: &str) -> FieldError {
    match reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        Some(missing) => {
            let field = if field.is_empty() { missing.to_owned() } else { format!("{field}.{missing}") };
            FieldError::new(field, FieldErrorKind::Missing, "missing")
        }
        None => {
            let is_not_finite = reason.starts_with(NOT_FINITE);
            let kind = if is_not_finite { FieldErrorKind::NotFinite } else { FieldErrorKind::WrongType };
            FieldError::new(field, kind, shortened(reason))
        }
    }
}

/// Reads a type from a value of a row.
///
/// # Errors
/// The field that is missing or has a wrong type.
pub(crate) fn typed<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = field_path(error.path());
        field_error(field, &error.into_inner().to_string())
    })
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

/// As [`finite_if_present`], but `null` means that there is no value: tables write it in every row without
/// one.
///
/// # Errors
/// If the value is neither a finite number nor `null`.
pub fn finite_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    struct OptionVisitor;

    impl<'de> Visitor<'de> for OptionVisitor {
        type Value = Option<f64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a finite number")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            finite_if_present(deserializer)
        }
    }

    deserializer.deserialize_option(OptionVisitor)
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
