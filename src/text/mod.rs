//! Text for people: escaped untrusted text, numbers and times.

mod numbers;
mod time;
mod untrusted;

pub(crate) use numbers::{count, fingerprint, grouped, ordinal, percent, short, signed};
pub(crate) use time::utc;
pub(crate) use untrusted::{ascii_controls, excerpt, markdown, markdown_quote, visible};
