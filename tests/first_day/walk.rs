//! The walk of a newcomer: the commands of the chapter "Your first day", in their order, in a shell.

use std::path::Path;
use std::process::Command;

use dissent_models::cache;
use dissent_models::runtime::OnnxRuntime;

use crate::support::required::{file, required};

const CHAPTER: &str = include_str!("../../docs/book/src/first-day.md");

/// The commands of the chapter: blocks marked `sh,runnable`, and those that readers do not see.
fn steps() -> Vec<String> {
    let (mut steps, mut lines) = (Vec::new(), CHAPTER.lines());
    while let Some(line) = lines.next() {
        if line == "```sh,runnable" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            steps.push(block.join("\n"));
        } else if let Some(hidden) = line.strip_prefix("<!-- run:") {
            steps.push(hidden.trim_end_matches("-->").trim().to_owned());
        }
    }
    steps
}

/// Runs a step as a reader would, with the program of this build as `dissent`. Returns what it printed.
fn in_shell(folder: &Path, step: &str) -> String {
    let bin = Path::new(env!("CARGO_BIN_EXE_dissent")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", step]).env("PATH", path).env_remove("DISSENT_DATA");
    let output = shell.current_dir(folder).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{step}\n{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    printed
}

#[test]
fn a_newcomer_walks_from_ten_prompts_to_a_comparison() {
    let Some(_) = required(OnnxRuntime::load(None)) else { return };
    let model = cache::cache_dir().unwrap().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let Some(_) = required(file(model)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    std::os::unix::fs::symlink(examples, folder.path().join("examples")).unwrap();
    let steps = steps();
    assert!(steps.len() > 12, "{steps:?}");
    let mut printed: Vec<(&str, String)> = Vec::new();
    for step in &steps {
        let text = in_shell(folder.path(), step);
        if step.contains("--explain") {
            // The run writes its own report later.
            let page = std::fs::read_to_string(folder.path().join(text.lines().last().unwrap())).unwrap();
            assert!(page.contains("What each sentence adds") && page.contains("Do conflicts find the proxy"));
        }
        printed.push((step, text));
    }
    let of = |command: &str| -> &str {
        let found = printed.iter().find(|(step, _)| step.contains(command));
        found.map(|(_, text)| text.as_str()).unwrap_or_default()
    };
    // The reward model is used with the template that it was trained with.
    let config = std::fs::read_to_string(folder.path().join("first.toml")).unwrap();
    assert!(config.contains("Question: {prompt}\\n\\nAnswer: {completion}"), "{config}");
    assert!(of("--dry-run").contains("whole run"), "{}", of("--dry-run"));
    assert!(of("feedback status").contains("ann"), "{}", of("feedback status"));
    assert!(of("lift first").contains("Do conflicts find the proxy"), "{}", of("lift first"));
    let table = of("compare first by-margin");
    assert!(table.contains("first") && table.contains("by-margin"), "{table}");
}
