//! The output folder of a training: its lock, its content, and the decision to begin or to resume.
//!
//! During a training, the folder holds `training.json` (the settings, marked unfinished), the last checkpoint
//! and the metrics. At the end it holds the result, and `training.json` is marked finished. Every file is
//! written under a temporary name, synced and renamed. A kill at any moment therefore leaves a folder from
//! which the same command resumes.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_models::checkpoint::ReadingRules;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::BadInput;

const RECORD: &str = "training.json";
const CHECKPOINT: &str = "checkpoint.bin";
/// The setting with the version of the reading rules. Version 0.1 wrote none.
const READING_RULES: &str = "reading_rules";
const METRICS: &str = "metrics.jsonl";
/// Folder in which a result of several files is made, before the files move up.
const RESULT: &str = "result.partial";
/// The files that mark a result, written last and removed first.
const CONFIGURATIONS: [&str; 2] = ["adapter_config.json", "config.json"];

/// The content of `training.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainingRecord {
    /// Whether the folder holds the result.
    pub(super) finished: bool,
    /// Settings and inputs that determine the result.
    pub(super) settings: Map<String, Value>,
    /// Names, paths and counts, for people.
    pub(super) about: Map<String, Value>,
    /// The last metrics of a finished training.
    pub(super) metrics: Map<String, Value>,
}

/// Content of an output folder.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FolderContent {
    /// No file.
    Empty,
    /// Files, but no training.
    OtherFiles,
    /// A training.
    Training(Box<TrainingRecord>),
}

/// The user's options for a folder that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ResumeOptions {
    /// Whether the folder must hold an unfinished training.
    pub(super) resume: bool,
    /// Whether a training in the folder is replaced.
    pub(super) overwrite: bool,
}

/// Whether a training begins or resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// A new training begins.
    Begin,
    /// The unfinished training resumes.
    Resume,
}

/// The reason why a training cannot use a folder, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FolderRefusal {
    /// The folder holds files that are not of a training.
    #[error("holds files but no training: name a new folder")]
    OtherFiles,
    /// The user wants to resume, and the folder is empty.
    #[error("holds no training to resume: leave --resume out to begin one")]
    NothingToResume,
    /// The settings of the folder's training differ.
    #[error(
        "holds a training with other settings ({0}): use the same settings to resume, name another folder, or start over \
         with --overwrite"
    )]
    OtherSettings(String),
    /// The folder's training is finished.
    #[error("already holds the result of this training: use --overwrite to train again")]
    Finished,
}

/// Decides whether a training with these settings begins or resumes in a folder.
///
/// # Errors
/// If the folder cannot be used.
pub(super) fn decide(
    content: &FolderContent,
    settings: &Map<String, Value>,
    options: ResumeOptions,
) -> Result<Decision, FolderRefusal> {
    match content {
        FolderContent::OtherFiles => Err(FolderRefusal::OtherFiles),
        FolderContent::Empty if options.resume => Err(FolderRefusal::NothingToResume),
        FolderContent::Empty => Ok(Decision::Begin),
        FolderContent::Training(_) if options.overwrite => Ok(Decision::Begin),
        FolderContent::Training(record) => match difference(&record.settings, settings) {
            Some(difference) => Err(FolderRefusal::OtherSettings(difference)),
            None if record.finished => Err(FolderRefusal::Finished),
            None => Ok(Decision::Resume),
        },
    }
}

/// Returns the rules by which the training in a folder reads the files of its models. A training that version
/// 0.1 began has no record of them, and reads by the first rules. A new training has the newest.
///
/// # Errors
/// If the folder cannot be read, or the rules are those of a newer version of the program.
pub(super) fn reading_rules(dir: &Path, options: ResumeOptions) -> anyhow::Result<ReadingRules> {
    let path = dir.join(RECORD);
    let bytes = match fs::read(&path) {
        Ok(bytes) if !options.overwrite => bytes,
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("failed to read {}", path.display()));
        }
        Ok(_) | Err(_) => return Ok(ReadingRules::default()),
    };
    let Ok(record) = serde_json::from_slice::<TrainingRecord>(&bytes) else {
        return Ok(ReadingRules::default());
    };
    let Some(version) = record.settings.get(READING_RULES) else { return Ok(ReadingRules::V1) };
    let version = version.as_u64().and_then(|version| u32::try_from(version).ok()).unwrap_or(u32::MAX);
    ReadingRules::try_from(version).with_context(|| format!("{}", path.display()))
}

/// Adds the rules by which the files of the models are read to the settings of a training.
pub(super) fn record_reading_rules(settings: &mut Map<String, Value>, rules: ReadingRules) {
    if rules != ReadingRules::V1 {
        settings.insert(READING_RULES.to_owned(), rules.version().into());
    }
}

/// Describes the first difference between two settings.
fn difference(recorded: &Map<String, Value>, given: &Map<String, Value>) -> Option<String> {
    let names = recorded.keys().chain(given.keys().filter(|name| !recorded.contains_key(*name)));
    names
        .map(|name| {
            (name, recorded.get(name).unwrap_or(&Value::Null), given.get(name).unwrap_or(&Value::Null))
        })
        .find(|(_, recorded, given)| recorded != given)
        .map(|(name, recorded, given)| match (recorded, given) {
            (Value::Object(recorded), Value::Object(given)) => {
                difference(recorded, given).map(|inner| format!("{name}.{inner}")).unwrap_or_default()
            }
            // A person cannot read anything from two hashes.
            _ if name.ends_with("fingerprint") => format!("{} differs", name.replace('_', " ")),
            _ => format!("{name} was {recorded}, now {given}"),
        })
}

/// An output folder that this process has locked.
pub(super) struct OutputFolder {
    dir: PathBuf,
    /// The lock of the folder, held until this value is dropped.
    _lock: File,
}

impl OutputFolder {
    /// Creates the folder if it does not exist, and locks it.
    ///
    /// # Errors
    /// If another process has locked it, or it cannot be created.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let lock = File::open(dir).with_context(|| format!("failed to open {}", dir.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let reason = format!("another process trains into {}: name another folder", dir.display());
                Err(BadInput(reason).into())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("failed to lock {}", dir.display()))
            }
        }
    }

    /// Returns the content of the folder.
    pub(super) fn content(&self) -> anyhow::Result<FolderContent> {
        let path = self.path(RECORD);
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(record) => Ok(FolderContent::Training(Box::new(record))),
                Err(_) => Ok(FolderContent::OtherFiles),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_empty = fs::read_dir(&self.dir)?.next().is_none();
                Ok(if is_empty { FolderContent::Empty } else { FolderContent::OtherFiles })
            }
            Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
        }
    }

    /// Begins a training, and replaces one that the folder holds.
    pub(super) fn begin(&self, record: &TrainingRecord) -> anyhow::Result<()> {
        for name in CONFIGURATIONS.into_iter().chain([CHECKPOINT, METRICS]) {
            remove(&self.path(name))?;
        }
        self.write_record(record)
    }

    pub(super) fn write_record(&self, record: &TrainingRecord) -> anyhow::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(record)?;
        bytes.push(b'\n');
        self.write(RECORD, &bytes).with_context(|| format!("failed to write {}", self.path(RECORD).display()))
    }

    /// Returns the default file of the metrics.
    pub(super) fn metrics_path(&self) -> PathBuf {
        self.path(METRICS)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the last checkpoint; none before the first.
    pub(super) fn checkpoint(&self) -> anyhow::Result<Option<Vec<u8>>> {
        match fs::read(self.path(CHECKPOINT)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("failed to read {}", self.path(CHECKPOINT).display()))
            }
        }
    }

    /// Writes a checkpoint, which replaces the previous one.
    pub(super) fn write_checkpoint(&self, bytes: &[u8]) -> io::Result<()> {
        self.write(CHECKPOINT, bytes)
    }

    /// Calls `save` with the path of a new folder, and moves the saved files up, the configuration last.
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

    /// Marks the training as finished, and removes the checkpoint.
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
    fn a_training_begins_resumes_or_is_refused_by_the_content_of_its_folder() {
        let same = settings(0.1);
        let cases = [
            (FolderContent::Empty, ResumeOptions::default(), Ok(Decision::Begin)),
            (FolderContent::Empty, OVERWRITE, Ok(Decision::Begin)),
            (FolderContent::Empty, RESUME, Err(FolderRefusal::NothingToResume)),
            (FolderContent::OtherFiles, ResumeOptions::default(), Err(FolderRefusal::OtherFiles)),
            // Files that are not of a training are never removed.
            (FolderContent::OtherFiles, OVERWRITE, Err(FolderRefusal::OtherFiles)),
            (training(false), ResumeOptions::default(), Ok(Decision::Resume)),
            (training(false), RESUME, Ok(Decision::Resume)),
            (training(false), OVERWRITE, Ok(Decision::Begin)),
            (training(true), ResumeOptions::default(), Err(FolderRefusal::Finished)),
            (training(true), RESUME, Err(FolderRefusal::Finished)),
            (training(true), OVERWRITE, Ok(Decision::Begin)),
        ];
        for (content, options, expected) in cases {
            assert_eq!(decide(&content, &same, options), expected, "{content:?} {options:?}");
        }
    }

    #[test]
    fn another_training_is_refused_with_the_setting_that_differs() {
        let refused = decide(&training(false), &settings(0.2), ResumeOptions::default()).unwrap_err();
        let expected = "training.learning_rate was 0.1, now 0.2".to_owned();
        assert_eq!(refused, FolderRefusal::OtherSettings(expected));
        let mut other = settings(0.1);
        other.insert("data_fingerprint".to_owned(), "b".into());
        let refused = decide(&training(true), &other, ResumeOptions::default()).unwrap_err();
        assert_eq!(refused, FolderRefusal::OtherSettings("data fingerprint differs".to_owned()));
        let mut more = settings(0.1);
        more.insert("beta".to_owned(), 1.into());
        let refused = decide(&training(false), &more, RESUME).unwrap_err();
        assert_eq!(refused, FolderRefusal::OtherSettings("beta was null, now 1".to_owned()));
    }

    #[test]
    fn a_training_keeps_the_reading_rules_that_it_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let rules = |options| reading_rules(folder.path(), options);
        assert_eq!(rules(ResumeOptions::default()).unwrap(), ReadingRules::V2);
        let FolderContent::Training(mut record) = training(false) else { panic!("a training") };
        let write = |record: &TrainingRecord| {
            fs::write(folder.path().join(RECORD), serde_json::to_vec(record).unwrap()).unwrap();
        };
        write(&record);
        assert_eq!(rules(ResumeOptions::default()).unwrap(), ReadingRules::V1);
        assert_eq!(rules(OVERWRITE).unwrap(), ReadingRules::V2);
        record_reading_rules(&mut record.settings, ReadingRules::V1);
        assert_eq!(FolderContent::Training(record.clone()), training(false), "version 0.1 wrote no rules");
        record_reading_rules(&mut record.settings, ReadingRules::V2);
        write(&record);
        assert_eq!(rules(RESUME).unwrap(), ReadingRules::V2);
        record.settings.insert(READING_RULES.to_owned(), 9.into());
        write(&record);
        assert!(format!("{:#}", rules(RESUME).unwrap_err()).contains(RECORD));
    }

    #[test]
    fn a_folder_belongs_to_one_process_and_reports_its_content() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("new/output");
        let folder = OutputFolder::open(&dir).unwrap();
        assert!(OutputFolder::open(&dir).is_err(), "the folder is locked");
        assert_eq!(folder.content().unwrap(), FolderContent::Empty);
        let FolderContent::Training(record) = training(false) else { panic!("a training") };
        folder.begin(&record).unwrap();
        assert_eq!(folder.content().unwrap(), training(false));
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
        assert_eq!(folder.content().unwrap(), training(true));
        assert_eq!(fs::read_to_string(dir.join("config.json")).unwrap(), "second");
        assert_eq!(folder.checkpoint().unwrap(), None);
        folder.begin(&record).unwrap();
        assert!(!dir.join("config.json").exists(), "the old result is removed");
        fs::write(dir.join(RECORD), "{}").unwrap();
        assert_eq!(folder.content().unwrap(), FolderContent::OtherFiles);
    }
}
