//! `cargo xtask test`: the whole suite, set up.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::cache::{target_dir, workspace_dir};
use crate::process::{cargo, complete, succeeds};

/// Names the file to which tests append why they skip (`tests/support/required.rs`).
const SKIPPED: &str = "DISSENT_TESTS_SKIPPED";

#[derive(Args)]
pub(crate) struct TestOptions {
    /// Run everything even after a failure, and print failures only
    #[arg(long)]
    ci: bool,
}

/// Fetches what the tests of real models need and installs what those of RabbitMQ need, then runs every test of the workspace.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    let begin = Instant::now();
    crate::fetch::fetch_all()?;
    crate::packages::ensure_make();
    crate::packages::ensure_rabbitmq();
    crate::packages::ensure_node();
    // Documentation tests first: cargo-nextest cannot run them, and its own summary should be the last thing read.
    let documentation = complete(cargo().args(["test", "--workspace", "--doc", "--quiet"]));
    if documentation.is_err() && !options.ci {
        return documentation;
    }
    let skipped = target_dir().join("tests-skipped");
    if skipped.exists() {
        std::fs::remove_file(&skipped).with_context(|| format!("failed to remove {}", skipped.display()))?;
    }
    let with_nextest = succeeds(cargo().args(["nextest", "--version"]));
    let mut suite = if with_nextest { nextest(options) } else { cargo_test(options) };
    let tests = complete(suite.env(SKIPPED, &skipped));
    print_skipped(&skipped)?;
    tests?;
    documentation?;
    println!("every test passed, documentation tests included, in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Prints how many tests skipped for each reason, from a file with a reason a line.
fn print_skipped(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    for (reason, tests) in counted(&text) {
        println!("skipped {tests}: {reason}");
    }
    Ok(())
}

/// How often each line occurs.
fn counted(text: &str) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    text.lines().for_each(|line| *counts.entry(line).or_insert(0) += 1);
    counts
}

fn cargo_test(options: &TestOptions) -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace", "--tests"]);
    if options.ci {
        command.arg("--no-fail-fast");
    }
    command
}

fn nextest(options: &TestOptions) -> Command {
    let mut command = cargo();
    command.args(["nextest", "run", "--workspace", "--tool-config-file"]);
    command.arg(format!("xtask:{}", workspace_dir().join("xtask/nextest.toml").display()));
    if options.ci {
        command.args(["--no-fail-fast", "--status-level=fail"]);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_counted_by_reason() {
        let counts = counted("no GPU\nno disk\nno GPU\n");
        assert_eq!(counts, BTreeMap::from([("no GPU", 2), ("no disk", 1)]));
    }
}
