//! `cargo xtask lint`: the checks of the source text, from formatting to import circles.

mod circles;
mod comments;
mod words;
mod workflows;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::process::{cargo, complete};

#[derive(Args)]
pub(crate) struct LintOptions {
    /// Run one check only
    #[arg(long, value_name = "CHECK")]
    only: Option<Check>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Check {
    /// Formatting: `cargo fmt --check`
    Fmt,
    /// No comment line is longer than 110 columns
    Comments,
    /// No sentence is longer than 25 words or has an avoided phrase
    Words,
    /// No import circle between the files of a crate
    Circles,
    /// The workflows of the forge are valid
    Workflows,
    /// No warning of clippy in any target
    Clippy,
}

impl Check {
    fn run(self) -> Result<()> {
        match self {
            Self::Fmt => complete(cargo().args(["fmt", "--all", "--check"])),
            Self::Comments => comments::check(),
            Self::Words => words::check(),
            Self::Circles => circles::check(),
            Self::Workflows => workflows::check(),
            Self::Clippy => {
                let mut clippy = cargo();
                clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--locked"]);
                complete(clippy.args(["--", "-D", "warnings"]))
            }
        }
    }
}

/// Runs the checks, the quick ones first, and stops at the first that fails.
pub(crate) fn run(options: &LintOptions) -> Result<()> {
    match options.only {
        Some(check) => check.run(),
        None => all(),
    }
}

/// Runs every check.
pub(crate) fn all() -> Result<()> {
    Check::value_variants().iter().try_for_each(|check| check.run())
}
