//! `cargo xtask golden`: regenerates the golden files, each with the script beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::bench::reference_python;
use crate::cache::workspace_dir;
use crate::process::complete;

/// Runs every `tests/golden/*.py`, of the workspace and of each crate, each with the paths of SmolLM2 and of
/// the proxy reward's adapter.
pub(crate) fn run() -> Result<()> {
    crate::fetch::fetch_all()?;
    let models = [crate::fetch::smollm2_path()?, workspace_dir().join("models/tests/golden/proxy-reward")];
    let python = reference_python()?;
    for script in scripts(&workspace_dir())? {
        println!("running {}", script.display());
        let folder = script.parent().with_context(|| format!("{} has no folder", script.display()))?;
        let mut run = Command::new(&python);
        // peft writes sets in hash order, which differs between runs without a fixed seed.
        run.arg(&script).args(&models).current_dir(folder).env("PYTHONHASHSEED", "0");
        complete(&mut run)?;
    }
    Ok(())
}

/// Returns the scripts of the workspace and of all its crates, in order of their paths.
fn scripts(workspace: &Path) -> Result<Vec<PathBuf>> {
    let crates = std::fs::read_dir(workspace)
        .with_context(|| format!("failed to list {}", workspace.display()))?
        .flatten();
    let mut scripts: Vec<PathBuf> = crates
        .map(|folder| folder.path())
        .chain([workspace.to_owned()])
        .filter_map(|folder| std::fs::read_dir(folder.join("tests/golden")).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "py"))
        .collect();
    scripts.sort();
    Ok(scripts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_scripts_are_found_in_the_workspace_and_every_crate_and_nothing_else_is() {
        let workspace = tempfile::tempdir().unwrap();
        for (folder, file) in [("b", "one.py"), ("a", "two.py"), ("a", "two.json"), (".", "three.py")] {
            let golden = workspace.path().join(folder).join("tests/golden");
            std::fs::create_dir_all(&golden).unwrap();
            std::fs::write(golden.join(file), b"").unwrap();
        }
        let found = scripts(workspace.path()).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["two.py", "one.py", "three.py"]);
    }
}
