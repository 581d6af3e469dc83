//! `cargo xtask pages`: checks the HTML pages in Chromium with axe-core, and takes the pictures of the
//! documentation.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::cache::{target_dir, workspace_dir};
use crate::demo::newest_html;
use crate::process::{cargo, complete, succeeds};

/// The variable with the folder of the Node packages (`tests/pages/browser.mjs`).
const TOOLS: &str = "DISSENT_PAGES_TOOLS";
/// The variable with the path of Chromium.
const CHROMIUM: &str = "DISSENT_CHROMIUM";

#[derive(Args)]
pub(crate) struct PagesOptions {
    /// HTML files to check instead of the pages that the test makes
    #[arg(value_name = "FILE", conflicts_with = "pictures")]
    files: Vec<PathBuf>,
    /// Take the pictures of the documentation from the report of the last demo
    #[arg(long)]
    pictures: bool,
}

/// Checks the pages, or takes the pictures. Without Chromium or npm it says so, and succeeds.
pub(crate) fn run(options: &PagesOptions) -> Result<()> {
    let Some(chromium) = chromium() else {
        println!("skipped: Chromium is missing (Debian: apt-get install chromium; or set {CHROMIUM})");
        return Ok(());
    };
    if !succeeds(Command::new("npm").arg("--version")) {
        println!("skipped: npm is missing (Debian: apt-get install npm)");
        return Ok(());
    }
    let tools = install_tools()?;
    let with_tools = |command: &mut Command| {
        complete(command.env(TOOLS, &tools).env(CHROMIUM, &chromium).current_dir(workspace_dir()))
    };
    if options.pictures {
        let data = target_dir().join("demo");
        let report = newest_html(&data)
            .with_context(|| format!("no report below {}: run `cargo xtask demo`", data.display()))?;
        return with_tools(Command::new("node").arg("tests/pages/pictures.mjs").arg(report));
    }
    if !options.files.is_empty() {
        let files = options.files.iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>()?;
        return with_tools(Command::new("node").arg("tests/pages/check.mjs").args(files));
    }
    crate::fetch::fetch_all()?;
    crate::packages::ensure_make();
    with_tools(cargo().args(["test", "--workspace", "--test", "integration", "pages::"]))
}

/// Installs the packages of `tests/pages/package.json` below the target folder, and returns that folder.
fn install_tools() -> Result<PathBuf> {
    let folder = target_dir().join("pages");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    for file in ["package.json", "package-lock.json"] {
        let from = workspace_dir().join("tests/pages").join(file);
        std::fs::copy(&from, folder.join(file))
            .with_context(|| format!("failed to copy {}", from.display()))?;
    }
    let is_quiet = ["--no-audit", "--no-fund", "--loglevel=error"];
    complete(Command::new("npm").args(["ci", "--ignore-scripts"]).args(is_quiet).current_dir(&folder))?;
    Ok(folder)
}

/// Finds Chromium, or a browser that behaves like it.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os(CHROMIUM).map(PathBuf::from);
    let folders = ["/usr/bin", "/usr/local/bin", "/snap/bin"].map(Path::new);
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let installed = folders.into_iter().flat_map(|folder| names.map(|name| folder.join(name)));
    let mac = PathBuf::from("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome");
    named.into_iter().chain(installed).chain([mac]).find(|path| path.is_file())
}
