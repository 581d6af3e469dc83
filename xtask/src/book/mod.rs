//! `cargo xtask book`: checks the links of every Markdown page, builds the book, and runs its commands when
//! asked.

mod commands;
mod links;
mod page;
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use self::page::BOOK;
use crate::cache::{target_dir, workspace_dir};
use crate::process::{cargo, complete, output_of};

/// The version of mdBook that builds the book.
const MDBOOK_VERSION: &str = "0.5.4";

#[derive(Args)]
pub(crate) struct BookOptions {
    /// Run one part only; without it, the links are checked and the book is built
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// The program that the book's commands run [default: the release build, built if needed]
    #[arg(long, value_name = "FILE")]
    dissent: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Check every relative link, anchor and path in the Markdown pages
    Links,
    /// Build the book to target/book; installs the pinned mdBook if it is missing
    Build,
    /// Run the commands of the book that are marked as runnable
    Commands,
}

/// Checks links, builds the book, or runs its commands, by the options.
pub(crate) fn run(options: &BookOptions) -> Result<()> {
    let wanted = |part| options.only.map_or(part != Part::Commands, |only| only == part);
    if wanted(Part::Links) {
        links::check(&workspace_dir())?;
    }
    if wanted(Part::Build) {
        build()?;
    }
    if wanted(Part::Commands) {
        let program = match &options.dissent {
            Some(program) => program.clone(),
            None => crate::demo::build_dissent()?,
        };
        commands::run(&workspace_dir(), &program)?;
    }
    Ok(())
}

/// Checks the links of all pages and builds the book.
pub(crate) fn build_checked() -> Result<()> {
    links::check(&workspace_dir())?;
    build()
}

fn build() -> Result<()> {
    let mdbook = mdbook()?;
    let output = target_dir().join("book");
    let book = workspace_dir().join(BOOK);
    complete(Command::new(mdbook).arg("build").arg(&book).arg("--dest-dir").arg(&output))?;
    let copied = sources::bring_along(&workspace_dir(), &book.join("src"), &output)?;
    println!("book: {} ({copied} source files with it)", output.join("index.html").display());
    Ok(())
}

/// Returns the pinned mdBook: the one on the path if its version matches, otherwise one below the target
/// folder.
fn mdbook() -> Result<PathBuf> {
    let installed = target_dir().join("book-tools");
    let own = installed.join("bin").join("mdbook");
    for candidate in [Path::new("mdbook"), own.as_path()] {
        let version = output_of(Command::new(candidate).arg("--version")).unwrap_or_default();
        if version.trim().trim_start_matches("mdbook v") == MDBOOK_VERSION {
            return Ok(candidate.to_path_buf());
        }
    }
    println!("installing mdBook {MDBOOK_VERSION} (minutes the first time, nothing after that)");
    let mut install = cargo();
    install.args(["install", "mdbook", "--version", MDBOOK_VERSION, "--locked"]);
    install.args(["--no-default-features", "--features", "search", "--root"]).arg(&installed);
    complete(&mut install).context("failed to install mdBook: install it by hand, or put it on the path")?;
    Ok(own)
}
