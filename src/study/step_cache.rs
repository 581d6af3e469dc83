//! A cache of the steps of a study. The name of a step's folder is a hash of the step's inputs.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The results of a study's steps, in the folder `steps` of its data folder.
#[derive(Debug, Clone)]
pub struct StepCache {
    folder: PathBuf,
}

impl StepCache {
    /// Creates the cache of a data folder.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("steps") }
    }

    /// Returns the folder of a step. Calls `make` unless an earlier run has finished the step. `inputs` must
    /// determine the result.
    ///
    /// `make` receives the path of a folder that does not exist. The checkpoint
    /// ([`StepCache::checkpoint_of`]) of that path is deleted after the step.
    ///
    /// # Errors
    /// As `make`, or if the folder cannot be written.
    pub fn folder(
        &self,
        name: &str,
        inputs: &impl Serialize,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let done = self.path(name, inputs)?;
        if done.is_dir() {
            return Ok(done);
        }
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("failed to create {}", self.folder.display()))?;
        let unfinished = done.with_extension("begun");
        if unfinished.exists() {
            // A killed step left this folder; the step starts again.
            fs::remove_dir_all(&unfinished)
                .with_context(|| format!("failed to delete {}", unfinished.display()))?;
        }
        make(&unfinished).with_context(|| format!("step {name} failed"))?;
        fs::rename(&unfinished, &done)
            .with_context(|| format!("failed to rename {} to {}", unfinished.display(), done.display()))?;
        let checkpoint = Self::checkpoint_of(&unfinished);
        match fs::remove_file(&checkpoint) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failed to delete checkpoint {}", checkpoint.display()))
            }
            _ => Ok(done),
        }
    }

    /// Returns the path of a step's checkpoint while `folder` is unfinished.
    #[must_use]
    pub fn checkpoint_of(folder: &Path) -> PathBuf {
        folder.with_extension("checkpoint")
    }

    /// Returns the rows 0..count of a step. Calls `row` for rows that no earlier run has made. Each row is
    /// synced to disk before the next one begins, so a killed step resumes.
    ///
    /// # Errors
    /// As `row`, or if the file cannot be read or written.
    pub fn rows<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        inputs: &impl Serialize,
        count: usize,
        mut row: impl FnMut(usize) -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<T>> {
        let path = self.path(name, inputs)?.with_extension("jsonl");
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("failed to create {}", self.folder.display()))?;
        let mut rows: Vec<T> = complete_rows(&path)?;
        rows.truncate(count);
        if rows.len() == count {
            return Ok(rows);
        }
        let mut file =
            fs::File::create(&path).with_context(|| format!("failed to write {}", path.display()))?;
        for row in &rows {
            writeln!(file, "{}", serde_json::to_string(row)?)?;
        }
        for index in rows.len()..count {
            let made = row(index).with_context(|| format!("step {name} failed at row {index}"))?;
            writeln!(file, "{}", serde_json::to_string(&made)?)?;
            file.sync_data()?;
            rows.push(made);
        }
        Ok(rows)
    }

    fn path(&self, name: &str, inputs: &impl Serialize) -> anyhow::Result<PathBuf> {
        let hash = blake3::hash(&serde_json::to_vec(inputs)?).to_hex();
        Ok(self.folder.join(format!("{name}-{}", &hash[..16])))
    }
}

/// Reads the rows before the first incomplete one, which a killed run may leave.
fn complete_rows<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
    };
    let mut rows = Vec::new();
    for line in BufReader::new(file).lines() {
        match serde_json::from_str(&line?) {
            Ok(row) => rows.push(row),
            Err(_) => break,
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_made_once_for_its_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let steps = StepCache::new(folder.path());
        let mut made = 0;
        let mut make = |inputs: &str| {
            steps.folder("step", &inputs, |path| {
                made += 1;
                fs::create_dir_all(path)?;
                Ok(fs::write(path.join("it"), inputs)?)
            })
        };
        let first = make("a").unwrap();
        assert_eq!(make("a").unwrap(), first);
        assert_ne!(make("b").unwrap(), first);
        assert_eq!(fs::read_to_string(first.join("it")).unwrap(), "a");
        assert_eq!(made, 2);
    }

    #[test]
    fn a_failed_step_is_made_again_from_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let steps = StepCache::new(folder.path());
        let failed = steps.folder("step", &1, |path| {
            fs::create_dir_all(path)?;
            fs::write(path.join("half"), "")?;
            anyhow::bail!("killed")
        });
        assert!(failed.is_err());
        let done = steps.folder("step", &1, |path| Ok(fs::create_dir_all(path)?)).unwrap();
        assert!(!done.join("half").exists());
    }

    #[test]
    fn rows_resume_after_the_last_complete_one() {
        let folder = tempfile::tempdir().unwrap();
        let steps = StepCache::new(folder.path());
        let mut made = Vec::new();
        let mut rows = |until: usize| {
            steps.rows("rows", &"inputs", 4, |index| {
                anyhow::ensure!(index < until, "killed");
                made.push(index);
                Ok(index * 10)
            })
        };
        assert!(rows(2).is_err());
        let path = fs::read_dir(folder.path().join("steps")).unwrap().next().unwrap().unwrap().path();
        let mut file = fs::File::options().append(true).open(path).unwrap();
        // A kill may leave half a row.
        file.write_all(b"[").unwrap();
        assert_eq!(rows(9).unwrap(), [0, 10, 20, 30]);
        assert_eq!(rows(0).unwrap(), [0, 10, 20, 30]);
        assert_eq!(made, [0, 1, 2, 3]);
    }
}
