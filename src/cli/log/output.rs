//! Output of the commands about the log.

use std::io::Write as _;

/// Prints one line: `value` as JSON, or `text`.
pub(super) fn print_line(as_json: bool, value: &serde_json::Value, text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(if as_json { writeln!(out, "{value}") } else { writeln!(out, "{text}") }?)
}
