//! The validity of `.github/workflows`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{target_dir, workspace_dir};
use crate::process::{complete, output_of, python_with_pip, succeeds};

/// The checker that is installed where neither it nor actionlint is found, as pip names it.
const CHECKER: &str = "check-jsonschema==0.39.0";

/// Fails if a workflow is not valid. Uses actionlint or check-jsonschema, and installs the latter below
/// `target` if both are missing.
pub(super) fn check() -> Result<()> {
    let folder = workspace_dir().join(".github/workflows");
    let mut workflows: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("failed to read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml"))
        .collect();
    workflows.sort();
    if succeeds(Command::new("actionlint").arg("-version")) {
        return complete(Command::new("actionlint").args(&workflows).current_dir(workspace_dir()));
    }
    let mut schema = checker()?;
    schema.args(["--builtin-schema", "vendor.github-workflows"]).args(&workflows);
    complete(&mut schema)
}

/// Returns a command that runs check-jsonschema.
fn checker() -> Result<Command> {
    if succeeds(Command::new("check-jsonschema").arg("--version")) {
        return Ok(Command::new("check-jsonschema"));
    }
    let python = python_with_pip()?;
    let folder = target_dir().join("check-jsonschema");
    let command = || module(&python, &folder);
    if !succeeds(command().arg("--version")) {
        println!("installing {CHECKER} in {}", folder.display());
        let mut pip = Command::new(&python);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
        ]);
        output_of(pip.arg("--target").arg(&folder).arg(CHECKER))?;
    }
    Ok(command())
}

/// Returns a command that runs the module check_jsonschema of a folder.
fn module(python: impl AsRef<std::ffi::OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(python);
    command.env("PYTHONPATH", folder).args(["-m", "check_jsonschema"]);
    command
}
