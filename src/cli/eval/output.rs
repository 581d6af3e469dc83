//! Output of evaluations.

use std::io::Write as _;

use dissent_domain::analysis::Interval;
use serde::Serialize;

/// Prints figures as JSON, or as lines of name and value.
pub(super) fn print(figures: &impl Serialize, lines: &[(&str, String)], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, figures)?;
        return Ok(writeln!(out)?);
    }
    for (name, value) in lines {
        writeln!(out, "{name:<28} {value}")?;
    }
    Ok(())
}

/// Formats mean and bounds as `0.7100 [0.6800, 0.7400]`.
pub(super) fn interval(interval: &Interval) -> String {
    format!("{:.4} [{:.4}, {:.4}]", interval.mean, interval.low, interval.high)
}
