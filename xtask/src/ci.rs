//! `cargo xtask ci`: everything that must hold before a change is merged.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::{book, checks, lint, suite};

/// A step of the run, with its name.
type Step = (&'static str, fn() -> Result<()>);

/// The steps in order, quick ones first; the tests come last, so that their summary ends the output.
const STEPS: [Step; 4] = [
    ("lint", lint::all),
    ("documentation", checks::doc),
    ("book", book::build_checked),
    ("tests", suite::run_all),
];

/// Runs the steps and stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    let begin = Instant::now();
    for (name, step) in STEPS {
        println!("\n== {name} ({:.0} s)", begin.elapsed().as_secs_f64());
        step().with_context(|| format!("step {name} failed"))?;
    }
    Ok(())
}
