//! Running other programs: cargo, python, `dissent`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command with inherited output. An error names the command and its exit status.
pub(crate) fn complete(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and returns its standard output. Shows its standard error if the command fails.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("failed to start {}", shown(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}):\n{}", shown(command), output.status, last_lines(&errors, 12));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed invalid UTF-8", shown(command)))
}

/// Returns the last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Whether a command starts and succeeds; its output is discarded.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Returns the cargo that started this program, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::cache::workspace_dir());
    // `cargo run`, which starts `cargo xtask`, sets these variables. A build script that reads them would be
    // rebuilt by the next plain `cargo build`.
    for variable in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(variable);
    }
    command
}

/// Returns a Python 3 that has `pip`: `python3`, or `python`.
pub(crate) fn python_with_pip() -> Result<PathBuf> {
    let found = ["python3", "python"].map(Path::new).into_iter().find(|python| {
        succeeds(Command::new(python).args(["-c", "import sys; sys.exit(sys.version_info < (3, 8))"]))
    });
    let python = found.context(
        "no Python 3.8 or newer found: install python3 with pip (Debian: apt install python3-pip; macOS: xcode-select \
         --install). Or copy the cache folder from another machine",
    )?;
    if !succeeds(Command::new(python).args(["-m", "pip", "--version"])) {
        bail!(
            "{} has no pip: install it (Debian: apt install python3-pip; elsewhere: {0} -m ensurepip --upgrade)",
            python.display()
        );
    }
    Ok(python.to_path_buf())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    format!("`{}`", words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named_with_its_status() {
        let error = complete(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("`sh -c exit 3`") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_missing_command_is_named() {
        let error = complete(&mut Command::new("no-such-program-here")).unwrap_err().to_string();
        assert_eq!(error, "failed to start `no-such-program-here`");
    }
}
