//! The output folder of a training: whose it is, what may be done with it, and what is kept in it.
//!
//! While a training runs, the folder holds `training.json` (what is trained, unfinished), the last checkpoint
//! and the metrics. When it is done, it holds the result, and `training.json` says so. Every file is written
//! aside, synced and renamed, so that a kill at any moment leaves a folder that the same command goes on
//! with.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::BadInput;

const RECORD: &str = "training.json";
const CHECKPOINT: &str = "checkpoint.bin";
const METRICS: &str = "metrics.jsonl";
/// Where a result that is a whole folder is made, before its files move up.
const RESULT: &str = "result.partial";
/// The file of a result that is looked for first, and so is written last and removed first.
const CONFIGURATIONS: [&str; 2] = ["adapter_config.json", "config.json"];

/// `training.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainingRecord {
    /// Whether the result is there.
    pub(super) finished: bool,
    /// Everything that determines the result.
    pub(super) settings: Map<String, Value>,
    /// What helps a person: names, paths, counts.
    pub(super) about: Map<String, Value>,
    /// The last figures, once it is finished.
    pub(super) metrics: Map<String, Value>,
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FolderContent {
    /// Nothing, or there is no such folder.
    Nothing,
    /// Something, but no training.
    SomethingElse,
    /// A training.
    Training(Box<TrainingRecord>),
}

/// What the user said about a folder that is not new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ResumeOptions {
    /// There must be an unfinished training to go on with.
    pub(super) resume: bool,
    /// A training that is there gives way.
    pub(super) overwrite: bool,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// A training begins.
    Begin,
    /// The unfinished one goes on.
    GoOn,
}

/// What to do with a folder for a training with these settings; or why nothing can be done, and the way out.
pub(super) fn decide(
    found: &FolderContent,
    settings: &Map<String, Value>,
    wish: ResumeOptions,
) -> Result<Decision, String> {
    match found {
        FolderContent::SomethingElse => {
            Err("holds files that are no training's: name a new folder".to_owned())
        }
        FolderContent::Nothing if wish.resume => {
            Err("holds no training to go on with: leave --resume out to begin one".to_owned())
        }
        FolderContent::Nothing => Ok(Decision::Begin),
        FolderContent::Training(_) if wish.overwrite => Ok(Decision::Begin),
        FolderContent::Training(record) => match difference(&record.settings, settings) {
            Some(difference) => Err(format!(
                "holds a training with other settings ({difference}): give the same to go on, name another folder, or \
                 begin anew with --overwrite"
            )),
            None if record.finished => {
                Err("holds this training, finished: there is nothing to do (--overwrite trains again)"
                    .to_owned())
            }
            None => Ok(Decision::GoOn),
        },
    }
}

/// The first difference between two settings, for a person to read.
fn difference(recorded: &Map<String, Value>, wanted: &Map<String, Value>) -> Option<String> {
    let names = recorded.keys().chain(wanted.keys().filter(|name| !recorded.contains_key(*name)));
    names
        .map(|name| {
            (name, recorded.get(name).unwrap_or(&Value::Null), wanted.get(name).unwrap_or(&Value::Null))
        })
        .find(|(_, recorded, wanted)| recorded != wanted)
        .map(|(name, recorded, wanted)| match (recorded, wanted) {
            (Value::Object(recorded), Value::Object(wanted)) => {
                difference(recorded, wanted).map(|inner| format!("{name}.{inner}")).unwrap_or_default()
            }
            // Hashes say nothing to a person.
            _ if name.ends_with("fingerprint") => format!("{} is not the same", name.replace('_', " ")),
            _ => format!("{name} was {recorded}, now {wanted}"),
        })
}

/// A folder that this process has for itself.
pub(super) struct OutputFolder {
    dir: PathBuf,
    /// Held until the end.
    _lock: File,
}

impl OutputFolder {
    /// Makes the folder if need be, and takes it for this process.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let lock = File::open(dir).with_context(|| format!("failed to open {}", dir.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(BadInput(format!("another process is training into {}", dir.display())).into())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("failed to lock {}", dir.display()))
            }
        }
    }

    /// What it holds.
    pub(super) fn found(&self) -> anyhow::Result<FolderContent> {
        let path = self.path(RECORD);
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(record) => Ok(FolderContent::Training(Box::new(record))),
                Err(_) => Ok(FolderContent::SomethingElse),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_empty = fs::read_dir(&self.dir)?.next().is_none();
                Ok(if is_empty { FolderContent::Nothing } else { FolderContent::SomethingElse })
            }
            Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
        }
    }

    /// Begins a training, in place of one that may be there.
    pub(super) fn begin(&self, record: &TrainingRecord) -> anyhow::Result<()> {
        for name in CONFIGURATIONS.into_iter().chain([CHECKPOINT, METRICS]) {
            remove(&self.path(name))?;
        }
        self.write_record(record)
    }

    pub(super) fn write_record(&self, record: &TrainingRecord) -> anyhow::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(record)?;
        bytes.push(b'\n');
        self.write(RECORD, &bytes).with_context(|| format!("failed to write {RECORD}"))
    }

    /// Where the metrics go unless the user names another file.
    pub(super) fn metrics_path(&self) -> PathBuf {
        self.path(METRICS)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The last checkpoint; none before the first.
    pub(super) fn checkpoint(&self) -> anyhow::Result<Option<Vec<u8>>> {
        match fs::read(self.path(CHECKPOINT)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("failed to read the checkpoint"),
        }
    }

    /// Keeps a checkpoint in place of the one before.
    pub(super) fn write_checkpoint(&self, bytes: &[u8]) -> io::Result<()> {
        self.write(CHECKPOINT, bytes)
    }

    /// Lets `save` write a result into a folder that is not there yet, and moves its files up: the
    /// configuration last.
    pub(super) fn put_result(&self, save: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let partial = self.path(RESULT);
        if partial.is_dir() {
            fs::remove_dir_all(&partial)?;
        }
        save(&partial)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(&partial)? {
            names.push(entry?.file_name());
        }
        names.sort_by_key(|name| CONFIGURATIONS.iter().any(|last| name == last));
        for name in names {
            fs::rename(partial.join(&name), self.dir.join(&name))?;
        }
        fs::remove_dir(&partial)?;
        Ok(sync(&self.dir)?)
    }

    /// Says that the training is finished, and removes what only going on needs.
    pub(super) fn finish(&self, record: &TrainingRecord) -> anyhow::Result<()> {
        self.write_record(record)?;
        remove(&self.path(CHECKPOINT))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".dissent-").suffix(".partial");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut temporary = builder.tempfile_in(&self.dir)?;
        temporary.write_all(bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(self.path(name)).map_err(|error| error.error)?;
        sync(&self.dir)
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(lr: f64) -> Map<String, Value> {
        let value = json!({"task": "reward", "data_fingerprint": "a", "training": {"learning_rate": lr}});
        value.as_object().cloned().unwrap()
    }

    fn training(finished: bool) -> FolderContent {
        let (about, metrics) = (Map::new(), Map::new());
        FolderContent::Training(Box::new(TrainingRecord {
            finished,
            settings: settings(0.1),
            about,
            metrics,
        }))
    }

    const RESUME: ResumeOptions = ResumeOptions { resume: true, overwrite: false };
    const OVERWRITE: ResumeOptions = ResumeOptions { resume: false, overwrite: true };

    #[test]
    fn a_folder_is_begun_gone_on_with_or_refused() {
        let same = settings(0.1);
        let cases = [
            (FolderContent::Nothing, ResumeOptions::default(), Ok(Decision::Begin)),
            (FolderContent::Nothing, OVERWRITE, Ok(Decision::Begin)),
            (FolderContent::Nothing, RESUME, Err("holds no training to go on with")),
            (FolderContent::SomethingElse, ResumeOptions::default(), Err("name a new folder")),
            // What is not ours is not ours to remove.
            (FolderContent::SomethingElse, OVERWRITE, Err("name a new folder")),
            (training(false), ResumeOptions::default(), Ok(Decision::GoOn)),
            (training(false), RESUME, Ok(Decision::GoOn)),
            (training(false), OVERWRITE, Ok(Decision::Begin)),
            (training(true), ResumeOptions::default(), Err("finished: there is nothing to do")),
            (training(true), RESUME, Err("finished: there is nothing to do")),
            (training(true), OVERWRITE, Ok(Decision::Begin)),
        ];
        for (found, wish, expected) in cases {
            match (decide(&found, &same, wish), expected) {
                (Ok(decision), Ok(expected)) => assert_eq!(decision, expected, "{found:?} {wish:?}"),
                (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{reason}"),
                (decision, _) => panic!("{found:?} {wish:?}: {decision:?}"),
            }
        }
    }

    #[test]
    fn another_training_is_refused_with_the_setting_that_differs() {
        let refused = decide(&training(false), &settings(0.2), ResumeOptions::default()).unwrap_err();
        assert!(refused.contains("(training.learning_rate was 0.1, now 0.2)"), "{refused}");
        let mut other = settings(0.1);
        other.insert("data_fingerprint".to_owned(), "b".into());
        let refused = decide(&training(true), &other, ResumeOptions::default()).unwrap_err();
        assert!(refused.contains("(data fingerprint is not the same)"), "{refused}");
        let mut more = settings(0.1);
        more.insert("beta".to_owned(), 1.into());
        assert!(decide(&training(false), &more, RESUME).unwrap_err().contains("beta was null, now 1"));
    }

    #[test]
    fn a_folder_is_one_process_s_and_says_what_it_holds() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("new/output");
        let folder = OutputFolder::open(&dir).unwrap();
        assert!(OutputFolder::open(&dir).is_err(), "it is taken");
        assert_eq!(folder.found().unwrap(), FolderContent::Nothing);
        let FolderContent::Training(record) = training(false) else { panic!("a training") };
        folder.begin(&record).unwrap();
        assert_eq!(folder.found().unwrap(), training(false));
        assert_eq!(folder.checkpoint().unwrap(), None);
        folder.write_checkpoint(b"1").unwrap();
        folder.write_checkpoint(b"2").unwrap();
        assert_eq!(folder.checkpoint().unwrap().as_deref(), Some(&b"2"[..]));
        for attempt in ["first", "second"] {
            let put = folder.put_result(|dir| {
                fs::create_dir(dir)?;
                fs::write(dir.join("config.json"), attempt)?;
                Ok(fs::write(dir.join("model.safetensors"), attempt)?)
            });
            put.unwrap();
        }
        folder.finish(&TrainingRecord { finished: true, ..TrainingRecord::clone(&record) }).unwrap();
        drop(folder);
        let folder = OutputFolder::open(&dir).unwrap();
        assert_eq!(folder.found().unwrap(), training(true));
        assert_eq!(fs::read_to_string(dir.join("config.json")).unwrap(), "second");
        assert_eq!(folder.checkpoint().unwrap(), None);
        folder.begin(&record).unwrap();
        assert!(!dir.join("config.json").exists(), "an old result is not taken for the new one");
        fs::write(dir.join(RECORD), "{}").unwrap();
        assert_eq!(folder.found().unwrap(), FolderContent::SomethingElse);
    }
}
