//! The book's commands: blocks marked `sh,runnable` run as a reader would run them, each chapter in a folder
//! of its own.
//!
//! The folder holds a copy of `examples`. A block `text,output` lists lines that the block before it must
//! print. A comment `<!-- run: COMMAND -->` is a command that readers do not see: it makes an example small
//! enough for a check.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::page::{Fence, Page};
use crate::process::{complete, last_lines};

/// Tags of a block of commands, with their meaning.
const TAGS: [(&str, &str); 6] = [
    ("runnable", "is run by `cargo xtask book --only commands`"),
    ("repository", "is a command of the repository, such as `cargo xtask demo`"),
    ("rabbitmq", "needs a RabbitMQ"),
    ("server", "needs a running server"),
    ("hours", "takes hours, or needs models that the repository lacks"),
    ("docker", "needs a container engine"),
];

/// Runs the runnable commands of every chapter, in the order of the table of contents.
///
/// # Errors
/// If a block of commands has no tag, fails, or lacks an expected line.
pub(super) fn run(workspace: &Path, program: &Path) -> Result<()> {
    let chapters = workspace.join(super::page::BOOK).join("src");
    let read = |name: &str| {
        std::fs::read_to_string(chapters.join(name)).with_context(|| format!("failed to read {name}"))
    };
    let mut blocks = 0;
    for (_, chapter) in Page::parse(&read("SUMMARY.md")?).links() {
        blocks += run_chapter(&chapter, &read(&chapter)?, workspace, program)?;
    }
    println!("commands: {blocks} blocks of the book ran");
    Ok(())
}

/// Runs one chapter. Returns the number of blocks that ran.
fn run_chapter(name: &str, text: &str, workspace: &Path, program: &Path) -> Result<usize> {
    let steps = steps(name, &Page::parse(text))?;
    let count = steps.iter().filter(|step| !step.is_hidden).count();
    if count == 0 {
        return Ok(0);
    }
    let folder = tempfile::tempdir()?;
    let programs = folder.path().join(".programs");
    std::fs::create_dir(&programs)?;
    let program = std::path::absolute(program)?;
    std::os::unix::fs::symlink(&program, programs.join("dissent"))?;
    complete(Command::new("cp").arg("-r").arg(workspace.join("examples")).arg(folder.path()))?;
    let mut path = programs.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    for step in steps {
        println!("{name}:{}", step.line);
        step.run(name, folder.path(), &path)?;
    }
    Ok(count)
}

/// A block of commands with its expected output.
struct Step {
    line: usize,
    script: String,
    expected: Vec<String>,
    is_hidden: bool,
}

impl Step {
    fn new(line: usize, script: &str, is_hidden: bool) -> Self {
        Self { line, script: script.to_owned(), expected: Vec::new(), is_hidden }
    }

    fn run(&self, name: &str, folder: &Path, path: &OsString) -> Result<()> {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &self.script]).current_dir(folder).env("PATH", path);
        for variable in [crate::demo::DATA_VARIABLE, "DISSENT_LOG"] {
            bash.env_remove(variable);
        }
        let output = bash.output().context("failed to start bash")?;
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        if !output.status.success() {
            bail!("{name}:{}: {}:\n{}", self.line, output.status, last_lines(&printed, 30));
        }
        let lines: Vec<&str> = printed.lines().map(str::trim).collect();
        if let Some(missing) = self.expected.iter().find(|line| !lines.contains(&line.as_str())) {
            bail!("{name}:{}: the line `{missing}` is missing in:\n{printed}", self.line);
        }
        Ok(())
    }
}

/// Returns the steps of a chapter in the order of its lines.
fn steps(name: &str, page: &Page) -> Result<Vec<Step>> {
    let hidden = page.prose.iter().filter_map(|(line, text)| {
        let command = text.trim().strip_prefix("<!-- run:")?.strip_suffix("-->")?;
        Some(Step::new(*line, command.trim(), true))
    });
    let mut steps: Vec<Step> = hidden.collect();
    let mut last: Option<usize> = None;
    for fence in &page.fences {
        check_tag(name, fence)?;
        if fence.has("runnable") {
            last = Some(steps.len());
            steps.push(Step::new(fence.line, &fence.text, false));
        } else if fence.has("output") {
            let step = last.with_context(|| {
                format!("{name}:{}: no runnable block before this output block", fence.line)
            })?;
            let lines = fence.text.lines().map(str::trim).filter(|line| !line.is_empty());
            steps[step].expected.extend(lines.map(str::to_owned));
        }
    }
    steps.sort_by_key(|step| step.line);
    Ok(steps)
}

/// Checks that a block of commands has a tag.
fn check_tag(name: &str, fence: &Fence) -> Result<()> {
    if fence.has("sh") && !TAGS.iter().any(|(tag, _)| fence.has(tag)) {
        let tags: Vec<String> = TAGS.iter().map(|(tag, meaning)| format!("  {tag}: {meaning}")).collect();
        bail!(
            "{name}:{}: commands without a tag; write `sh,TAG` with one of\n{}",
            fence.line,
            tags.join("\n")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_commands_and_expected_lines_belong_to_their_blocks() {
        let page = Page::parse(
            "<!-- run: echo small > a -->\n\n```sh,runnable\ncat a\n```\n\n```text,output\nsmall\n```\n\n```sh,hours\ntrain\n```\n",
        );
        let steps = steps("page.md", &page).unwrap();
        let seen: Vec<_> = steps.iter().map(|s| (s.line, s.script.trim(), s.is_hidden)).collect();
        assert_eq!(seen, [(1, "echo small > a", true), (3, "cat a", false)]);
        assert_eq!(steps[1].expected, ["small"]);
    }

    #[test]
    fn a_block_without_a_tag_is_an_error() {
        let error = steps("page.md", &Page::parse("```sh\nls\n```\n")).err().unwrap().to_string();
        assert!(error.starts_with("page.md:1: commands without a tag"), "{error}");
    }

    #[test]
    fn a_command_that_prints_something_else_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut step = Step::new(7, "echo one", false);
        let path = std::env::var_os("PATH").unwrap_or_default();
        step.run("page.md", folder.path(), &path).unwrap();
        step.expected.push("two".to_owned());
        let error = step.run("page.md", folder.path(), &path).unwrap_err().to_string();
        assert!(error.contains("page.md:7: the line `two` is missing"), "{error}");
    }
}
