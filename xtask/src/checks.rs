//! Single checks of the workspace: documentation, dependencies, the oldest Rust, and sets of features.

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cache::workspace_dir;
use crate::process::{cargo, complete, succeeds};

/// Features of the root crate that CI builds besides the default ones, as arguments of cargo.
const FEATURE_SETS: [&[&str]; 2] = [&["--no-default-features"], &["--features", "s3,amqps"]];

#[derive(Args)]
pub(crate) struct DenyOptions {
    /// Check advisories too, after a download of the advisory database
    #[arg(long)]
    advisories: bool,
}

/// Builds the documentation of the workspace without dependencies; a warning is an error.
pub(crate) fn doc() -> Result<()> {
    let mut doc = cargo();
    doc.args(["doc", "--quiet", "--no-deps", "--workspace", "--locked"]);
    complete(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Checks licences, bans and sources of the dependencies against `deny.toml`.
pub(crate) fn deny(options: &DenyOptions) -> Result<()> {
    if !succeeds(cargo().args(["deny", "--version"])) {
        bail!("cargo-deny is not installed: cargo install --locked cargo-deny");
    }
    let mut deny = cargo();
    deny.args(["deny", "check", "licenses", "bans", "sources"]);
    complete(if options.advisories { deny.arg("advisories") } else { &mut deny })
}

/// Compiles the workspace with the oldest Rust that it supports: `rust-version` in Cargo.toml.
pub(crate) fn msrv() -> Result<()> {
    let path = workspace_dir().join("Cargo.toml");
    let manifest =
        std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let version = rust_version(&manifest).context("Cargo.toml has no rust-version")?;
    if !succeeds(Command::new("rustup").args(["run", version, "cargo", "--version"])) {
        bail!("Rust {version} is not installed: rustup toolchain install {version} --profile minimal");
    }
    println!("compiling with Rust {version}");
    let mut check = Command::new("rustup");
    check.args(["run", version, "cargo", "check", "--quiet", "--workspace", "--all-targets", "--locked"]);
    // The cargo that runs this program names its own toolchain, which would win over `rustup run`.
    check
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_MANIFEST_DIR");
    complete(check.current_dir(workspace_dir()))
}

/// Returns the value of `rust-version` in a manifest.
fn rust_version(manifest: &str) -> Option<&str> {
    let value = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "))?;
    Some(value.trim().trim_matches('"'))
}

/// Compiles the program with every set of features that is not the default.
pub(crate) fn features() -> Result<()> {
    for set in FEATURE_SETS {
        println!("checking {}", set.join(" "));
        complete(cargo().args(["check", "--quiet", "--package", "dissent", "--locked"]).args(set))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_rust_is_read_from_the_manifest() {
        let manifest = "[workspace.package]\nedition = \"2024\"\nrust-version = \"1.92\"\n";
        assert_eq!(rust_version(manifest), Some("1.92"));
        assert_eq!(rust_version("[package]\n"), None);
    }
}
