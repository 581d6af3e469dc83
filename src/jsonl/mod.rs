//! Reading rows of JSON Lines and other containers, and writing JSON Lines. Input is untrusted, and its
//! errors name file, line and field. Output appears completely or not at all.

mod read;
mod rows;
mod write;

pub use read::{
    Fault, FieldError, FieldErrorKind, InputError, JsonLines, LINE_BYTES_MAX, Object, finite,
    finite_if_present, finite_or_null,
};
pub use write::{JsonLinesWriter, OutputError};
