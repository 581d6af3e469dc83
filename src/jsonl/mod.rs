//! Reading and writing JSON Lines. Input is untrusted, and its errors name file, line and field. Output
//! appears completely or not at all.

mod read;
mod write;

pub use read::{
    Fault, FieldError, FieldErrorKind, InputError, JsonLines, LINE_BYTES_MAX, Object, finite,
    finite_if_present,
};
pub use write::{JsonLinesWriter, OutputError};
