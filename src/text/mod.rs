//! Text for people: escaped untrusted text, numbers, times and commands.

mod numbers;
mod shell;
mod similar;
mod time;
mod untrusted;

pub(crate) use numbers::{count, fingerprint, grouped, ordinal, percent, short, signed};
pub(crate) use shell::{shell_command, shell_word};
pub(crate) use similar::similar;
pub(crate) use time::utc;
pub(crate) use untrusted::{ascii_controls, excerpt, markdown, markdown_quote, visible};
