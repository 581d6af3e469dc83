//! JSON Lines in and out: the commands' input is untrusted and its errors name file, line and field; their
//! output appears whole or not at all.

mod read;
mod write;

pub use read::{Fault, InputError, JsonLines, LINE_BYTES_MAX, Object, finite, finite_if_present};
pub use write::{JsonLinesWriter, OutputError};
