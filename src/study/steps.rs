//! The steps of a study, each done once: a step's result lies in a folder that is named by everything that
//! determines it.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The results of a study's steps, in a folder of its data folder.
#[derive(Debug, Clone)]
pub struct Steps {
    folder: PathBuf,
}

impl Steps {
    /// In this data folder.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("steps") }
    }

    /// The folder of a step: made by `make` the first time, found ever after. `inputs` is all that determines
    /// the result.
    ///
    /// `make` is given the folder's future path, which does not exist yet; what it writes elsewhere is its
    /// own affair, but for a checkpoint ([`Steps::checkpoint_of`]), which is gone once the step is done.
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
            .with_context(|| format!("failed to make {}", self.folder.display()))?;
        let begun = done.with_extension("begun");
        if begun.exists() {
            // What was left by a step that was killed; it begins again.
            fs::remove_dir_all(&begun).with_context(|| format!("failed to remove {}", begun.display()))?;
        }
        make(&begun).with_context(|| format!("the step {name} failed"))?;
        fs::rename(&begun, &done).with_context(|| format!("failed to keep {}", done.display()))?;
        match fs::remove_file(Self::checkpoint_of(&begun)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context("failed to remove a checkpoint")
            }
            _ => Ok(done),
        }
    }

    /// Where a step that takes long keeps its checkpoint until the folder that it was given is made.
    #[must_use]
    pub fn checkpoint_of(folder: &Path) -> PathBuf {
        folder.with_extension("checkpoint")
    }

    /// The rows of a step, one after the other in the order of their numbers: `row` is asked for those that
    /// no earlier run has made. A row is on the disk before the next is begun, so that a step that is killed
    /// goes on where it was.
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
            .with_context(|| format!("failed to make {}", self.folder.display()))?;
        let mut rows: Vec<T> = whole_rows(&path)?;
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
            let made = row(index).with_context(|| format!("the step {name} failed at row {index}"))?;
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

/// The rows up to the first that is not whole: a run was killed while it wrote that one.
fn whole_rows<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
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
        let steps = Steps::new(folder.path());
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
    fn a_step_that_failed_is_made_again_from_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let steps = Steps::new(folder.path());
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
    fn rows_go_on_after_the_last_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let steps = Steps::new(folder.path());
        let mut asked = Vec::new();
        let mut rows = |until: usize| {
            steps.rows("rows", &"inputs", 4, |index| {
                anyhow::ensure!(index < until, "killed");
                asked.push(index);
                Ok(index * 10)
            })
        };
        assert!(rows(2).is_err());
        let path = fs::read_dir(folder.path().join("steps")).unwrap().next().unwrap().unwrap().path();
        let mut file = fs::File::options().append(true).open(path).unwrap();
        // Half a row, as a kill leaves it.
        file.write_all(b"[").unwrap();
        assert_eq!(rows(9).unwrap(), [0, 10, 20, 30]);
        assert_eq!(rows(0).unwrap(), [0, 10, 20, 30]);
        assert_eq!(asked, [0, 1, 2, 3]);
    }
}
