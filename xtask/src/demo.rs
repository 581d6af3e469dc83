//! `cargo xtask demo`: builds the program, runs an experiment and opens its report.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::Args;

use crate::cache::{target_dir, workspace_dir};
use crate::process::{cargo, complete};

/// The demo's configuration, below the workspace.
const CONFIG: &str = "examples/demo/demo.toml";

/// The variable that overrides the data folder of the demo's configuration.
pub(crate) const DATA_VARIABLE: &str = "DISSENT_DATA";

#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Delete the data of the last demo and start over
    #[arg(long)]
    fresh: bool,
    /// Do not open the report in a browser
    #[arg(long)]
    no_open: bool,
}

/// Downloads the models, builds, runs or continues the demo's experiment, and opens its report.
pub(crate) fn run(options: &DemoOptions) -> Result<()> {
    crate::fetch::fetch_all()?;
    let dissent = build_dissent()?;
    let data = target_dir().join("demo");
    if options.fresh && data.exists() {
        std::fs::remove_dir_all(&data).with_context(|| format!("failed to remove {}", data.display()))?;
    }
    let mut run = Command::new(&dissent);
    complete(run.args(["run", CONFIG]).env_remove(DATA_VARIABLE).current_dir(workspace_dir()))?;
    let report =
        newest_html(&data).with_context(|| format!("the run wrote no report below {}", data.display()))?;
    if !options.no_open {
        open(&report);
    }
    Ok(())
}

/// Builds the program in release mode and returns its path.
pub(crate) fn build_dissent() -> Result<PathBuf> {
    crate::packages::ensure_make();
    println!("building dissent (minutes the first time)");
    complete(cargo().args(["build", "--release", "--package", "dissent", "--bin", "dissent"]))?;
    Ok(target_dir().join("release/dissent"))
}

/// Returns the newest report below a folder.
pub(crate) fn newest_html(folder: &Path) -> Option<PathBuf> {
    let mut reports = Vec::new();
    collect_html(folder, &mut reports);
    reports.into_iter().max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
}

fn collect_html(folder: &Path, reports: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect_html(&path, reports);
        } else if path.extension().is_some_and(|extension| extension == "html") {
            reports.push(path);
        }
    }
}

/// Opens a file in a browser if there is a display; without one the demo still succeeds.
fn open(path: &Path) {
    let opener = match std::env::consts::OS {
        "macos" => Some("open"),
        _ if std::env::var_os("DISPLAY").is_some() || std::env::var_os("WAYLAND_DISPLAY").is_some() => {
            Some("xdg-open")
        }
        _ => None,
    };
    if let Some(opener) = opener {
        let started = Command::new(opener).arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if started.is_err() {
            println!("{opener} is not installed: open the report in a browser");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_found_below_the_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest_html(folder.path()), None);
        let reports = folder.path().join("reports");
        std::fs::create_dir(&reports).unwrap();
        std::fs::write(folder.path().join("log.txt"), b"").unwrap();
        std::fs::write(reports.join("tone-demo.html"), b"").unwrap();
        assert_eq!(newest_html(folder.path()), Some(reports.join("tone-demo.html")));
    }
}
