//! How the commands about the log print their results.

use std::io::Write as _;

/// Prints one line, for people or for machines.
pub(super) fn say(as_json: bool, value: &serde_json::Value, text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(if as_json { writeln!(out, "{value}") } else { writeln!(out, "{text}") }?)
}
