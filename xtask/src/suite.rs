//! `cargo xtask test`: the whole suite, set up.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cache::{target_dir, workspace_dir};
use crate::process::{cargo, complete, succeeds};

/// How a test that cannot run here begins the line that says so.
const SKIPPED: &str = "skipped: ";
/// What a skipped test names when only the cache is lacking.
const FETCH: &str = "cargo xtask fetch";

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
    // Documentation tests first: cargo-nextest cannot run them, and its own summary should be the last thing read.
    let documentation = complete(cargo().args(["test", "--workspace", "--doc", "--quiet"]));
    if documentation.is_err() && !options.ci {
        return documentation;
    }
    if succeeds(cargo().args(["nextest", "--version"])) {
        run_nextest(options)?;
    } else {
        let mut suite = cargo();
        suite.args(["test", "--workspace", "--tests"]);
        complete(if options.ci { suite.arg("--no-fail-fast") } else { &mut suite })?;
    }
    documentation?;
    println!("every test passed, documentation tests included, in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn run_nextest(options: &TestOptions) -> Result<()> {
    let report = target_dir().join("nextest/default/junit.xml");
    if report.exists() {
        std::fs::remove_file(&report).with_context(|| format!("failed to remove {}", report.display()))?;
    }
    complete(&mut nextest(options))?;
    let text = std::fs::read_to_string(&report)
        .with_context(|| format!("failed to read the test report {}", report.display()))?;
    let skipped = skipped(&text);
    for (reason, tests) in &skipped {
        println!("skipped {tests}: {reason}");
    }
    if skipped.keys().any(|reason| reason.contains(FETCH)) {
        bail!("tests skipped for want of what `{FETCH}` has just fetched");
    }
    Ok(())
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

/// Why tests skipped, and how many for each reason, from a JUnit report.
fn skipped(report: &str) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for line in report.lines() {
        // The first line of an output follows its opening tag.
        let said = line.rsplit_once("<system-err>").map_or(line, |(_, said)| said);
        if let Some(reason) = said.strip_prefix(SKIPPED) {
            let reason = reason.split("</system-err>").next().unwrap_or(reason);
            *reasons.entry(reason.to_owned()).or_insert(0) += 1;
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_counted_by_reason() {
        let report = "<testcase name=\"a\"><system-out>skipped: not me\n</system-out>\n\
                      <system-err>skipped: no browser; run `cargo xtask fetch`\n</system-err></testcase>\n\
                      <testcase name=\"b\"><system-err>one\nskipped: no disk</system-err></testcase>\n\
                      <testcase name=\"c\"><system-err>skipped: no disk\n</system-err></testcase>\n";
        let reasons = skipped(report);
        assert_eq!(reasons.get("no disk"), Some(&2));
        assert_eq!(reasons.get("no browser; run `cargo xtask fetch`"), Some(&1));
        assert_eq!(reasons.len(), 2);
    }
}
