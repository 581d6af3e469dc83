//! The validity of `.github/workflows`.

use std::process::Command;

use anyhow::Result;

use crate::cache::workspace_dir;
use crate::process::{complete, succeeds};

/// Fails if a workflow is not valid. The check needs actionlint or check-jsonschema; without both it prints
/// a notice and passes.
pub(super) fn check() -> Result<()> {
    let folder = workspace_dir().join(".github/workflows");
    let mut workflows: Vec<_> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml"))
        .collect();
    workflows.sort();
    if workflows.is_empty() {
        return Ok(());
    }
    if succeeds(Command::new("actionlint").arg("-version")) {
        return complete(Command::new("actionlint").args(&workflows).current_dir(workspace_dir()));
    }
    if succeeds(Command::new("check-jsonschema").arg("--version")) {
        let mut schema = Command::new("check-jsonschema");
        return complete(schema.args(["--builtin-schema", "vendor.github-workflows"]).args(&workflows));
    }
    println!("workflows are not checked: install actionlint or check-jsonschema");
    Ok(())
}
