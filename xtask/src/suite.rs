//! `cargo xtask test`: the whole suite, set up.

use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::process::{cargo, complete, succeeds};

#[derive(Args)]
pub(crate) struct TestOptions {
    /// Run everything even after a failure, and print no progress
    #[arg(long)]
    ci: bool,
}

/// Fetches what the tests of real models need, then runs every test of the workspace.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    let begin = Instant::now();
    crate::fetch::fetch_all()?;
    let nextest = succeeds(cargo().args(["nextest", "--version"]));
    // Documentation tests first: cargo-nextest cannot run them, and its own summary should be the last thing read.
    complete(cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
    let mut suite = cargo();
    match (nextest, options.ci) {
        (true, false) => suite.args(["nextest", "run", "--workspace"]),
        (true, true) => {
            suite.args(["nextest", "run", "--workspace", "--no-fail-fast", "--status-level=fail"])
        }
        (false, false) => suite.args(["test", "--workspace", "--tests"]),
        (false, true) => suite.args(["test", "--workspace", "--tests", "--no-fail-fast"]),
    };
    complete(&mut suite)?;
    println!("every test passed, documentation tests included, in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}
