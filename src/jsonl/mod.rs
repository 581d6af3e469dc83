//! Reading rows of JSON Lines and other containers, and writing JSON Lines. Input is untrusted, and its
//! errors name file, line and field. Output appears completely or not at all.

mod error;
mod read;
mod rows;
mod write;

pub use error::{Fault, FieldError, FieldErrorKind, InputError, LINE_BYTES_MAX};
pub(crate) use read::typed;
pub use read::{JsonLines, Object, finite, finite_if_present, finite_or_null};
pub use write::{JsonLinesWriter, OutputError};
