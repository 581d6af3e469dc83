//! The Python of reference measurements and golden-file scripts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cache::{cache_dir, workspace_dir};
use crate::process::{complete, python_with_pip, succeeds};

/// Names an interpreter to use instead of a virtual environment in the cache.
const OVERRIDE: &str = "DISSENT_BENCH_PYTHON";

/// Returns `$DISSENT_BENCH_PYTHON` if it is set. Otherwise returns the interpreter of a virtual environment
/// in the cache, with `bench/requirements.txt`.
pub(crate) fn reference_python() -> Result<PathBuf> {
    if let Some(python) = std::env::var_os(OVERRIDE).filter(|value| !value.is_empty()).map(PathBuf::from) {
        if !succeeds(Command::new(&python).args(["-c", "import torch, transformers"])) {
            bail!("{OVERRIDE} names {}, which lacks torch or transformers: install both", python.display());
        }
        return Ok(python);
    }
    environment(&workspace_dir().join("bench/requirements.txt"))
}

/// Returns the interpreter of the environment, and creates the environment if it is missing. Its name is
/// derived from the requirements, so changed requirements give a new one. A file, written last, marks a
/// complete environment.
fn environment(requirements: &Path) -> Result<PathBuf> {
    let wanted =
        std::fs::read(requirements).with_context(|| format!("failed to read {}", requirements.display()))?;
    let name = crate::fetch::hexadecimal(&Sha256::digest(&wanted)[..6]);
    let folder = cache_dir()?.join("bench-python").join(name);
    let (python, marker) = (folder.join("bin/python"), folder.join("complete"));
    if marker.exists() {
        return Ok(python);
    }
    println!("creating a Python environment in {} (2 GB or more, once)", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    complete(Command::new(python_with_pip()?).args(["-m", "venv"]).arg(&folder))
        .context("failed to make a virtual environment (Debian: apt install python3-venv)")?;
    complete(
        Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements),
    )?;
    std::fs::write(&marker, b"").with_context(|| format!("failed to write {}", marker.display()))?;
    Ok(python)
}
