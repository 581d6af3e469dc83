//! `cargo xtask demo`: from nothing to a report, in one command.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::Args;

use crate::cache::{target_dir, workspace_dir};
use crate::process::{cargo, complete};

/// The demo's configuration, below the workspace.
const CONFIG: &str = "examples/demo/demo.toml";

#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Forget the last demo and start over
    #[arg(long)]
    fresh: bool,
    /// Do not open the report in a browser
    #[arg(long)]
    no_open: bool,
}

/// Fetches, builds, runs the demo's experiment (or continues it) and shows its report.
pub(crate) fn run(options: &DemoOptions) -> Result<()> {
    crate::fetch::fetch_all()?;
    println!("building dissent (minutes the first time, nothing after that)");
    complete(cargo().args(["build", "--release", "--package", "dissent", "--bin", "dissent"]))?;
    let data = target_dir().join("demo");
    if options.fresh && data.exists() {
        std::fs::remove_dir_all(&data).with_context(|| format!("failed to remove {}", data.display()))?;
    }
    let dissent = target_dir().join("release").join("dissent");
    complete(Command::new(&dissent).args(["run", CONFIG]).current_dir(workspace_dir()))?;
    if let Some(report) = newest_html(&data) {
        println!("report: {}", report.display());
        if !options.no_open {
            open(&report);
        }
    }
    Ok(())
}

/// The report that was written last below a folder.
fn newest_html(folder: &Path) -> Option<std::path::PathBuf> {
    let mut reports = Vec::new();
    collect_html(folder, &mut reports);
    reports.into_iter().max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
}

fn collect_html(folder: &Path, reports: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect_html(&path, reports);
        } else if path.extension().is_some_and(|extension| extension == "html") {
            reports.push(path);
        }
    }
}

/// Opens a file in a browser where there is a display; a demo does not fail because there is none.
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
            println!("no {opener} here: open the report in a browser yourself");
        }
    }
}
