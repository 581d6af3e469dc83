//! `cargo xtask test`: sets up and runs the whole suite.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cache::{target_dir, workspace_dir};
use crate::process::{cargo, complete, succeeds};

/// The variable with the file to which tests append the reasons of skips (`tests/support/required.rs`).
const SKIPPED: &str = "DISSENT_TESTS_SKIPPED";

#[derive(Args)]
pub(crate) struct TestOptions {
    /// Run everything even after a failure, and print failures only
    #[arg(long)]
    ci: bool,
}

/// Runs the suite as CI does.
pub(crate) fn run_all() -> Result<()> {
    run(&TestOptions { ci: true })
}

/// Fetches the models and installs the programs that tests need, then runs every test of the workspace.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    let begin = Instant::now();
    crate::fetch::fetch_all()?;
    crate::packages::ensure_make();
    crate::packages::ensure_rabbitmq();
    crate::packages::ensure_node();
    // Documentation tests first: cargo-nextest cannot run them, and its own summary should be the last thing
    // read.
    let documentation = complete(cargo().args(["test", "--workspace", "--doc", "--quiet"]));
    if documentation.is_err() && !options.ci {
        return documentation;
    }
    let skipped = target_dir().join("tests-skipped");
    if skipped.exists() {
        std::fs::remove_file(&skipped).with_context(|| format!("failed to remove {}", skipped.display()))?;
    }
    let with_nextest = succeeds(cargo().args(["nextest", "--version"]));
    let tests = if with_nextest {
        complete(nextest(options).env(SKIPPED, &skipped))
    } else {
        run_counted(cargo_test(options).env(SKIPPED, &skipped))
    };
    print_skipped(&skipped)?;
    tests?;
    documentation?;
    println!("every test passed, documentation tests included, in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Prints the number of skipped tests for each reason, from a file with one reason per line.
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

/// Counts the occurrences of each line.
fn counted(text: &str) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    text.lines().for_each(|line| *counts.entry(line).or_insert(0) += 1);
    counts
}

/// Runs `cargo test`, shows its output, and ends with the failed tests and the totals of all test programs.
fn run_counted(command: &mut Command) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("failed to start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut totals = Totals::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("failed to read the output of cargo test")?;
        println!("{line}");
        totals.add(&line);
    }
    let status = child.wait().context("failed to wait for cargo test")?;
    for test in &totals.failures {
        println!("failed: {test}");
    }
    println!("\n{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.ignored);
    if !status.success() {
        bail!("cargo test failed: {status}");
    }
    Ok(())
}

/// The results of several test programs.
#[derive(Default)]
struct Totals {
    passed: usize,
    failed: usize,
    ignored: usize,
    failures: Vec<String>,
}

impl Totals {
    /// Adds a line of libtest's output.
    fn add(&mut self, line: &str) {
        if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(test.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        // "ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s"
        for part in result.split(['.', ';']) {
            let Some((count, what)) = part.trim().split_once(' ') else { continue };
            let Ok(count) = count.parse::<usize>() else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
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

    #[test]
    fn results_of_several_test_programs_are_added_up() {
        let mut totals = Totals::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test orders::pause ... FAILED",
            "test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1.20s",
            "test orders::resume ... ok",
        ] {
            totals.add(line);
        }
        assert_eq!((totals.passed, totals.failed, totals.ignored), (7, 1, 1));
        assert_eq!(totals.failures, ["orders::pause"]);
    }
}
