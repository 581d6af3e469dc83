//! Salvage: reading the sound events of a damaged log.
//!
//! sled repairs a log when it opens it, and loses data in doing so. So only copies are opened here. If sled
//! rejects a copy, smaller copies follow: without its snapshot and settings, which sled can do without, and
//! then without its end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use dissent_domain::error::chain;
use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{LogError, LogPart};
use sled::Batch;
use tempfile::TempDir;

use super::error::{damage_of, damaged, damaged_because, guarded, io_error, located, read_error};
use super::open::{lock, open_sled};
use super::options::SledOptions;
use super::reader::Reader;
use super::tail::{self, Found, Tail};
use super::verify::{FINDINGS_MAX, Finding};

/// Granularity in bytes at which an unreadable database is truncated.
const CUT_BYTES: u64 = 32 << 10;

/// The sound events of a damaged log. Of each experiment these are the events before its first gap, because
/// later events depend on the missing ones.
pub struct Salvage {
    // The field order matters: sled must close before its files are deleted.
    reader: Reader,
    _copy: TempDir,
    positions: Vec<u64>,
    promised: Option<u64>,
    lost: Vec<Finding>,
}

impl Salvage {
    /// Reads the sound events of the log in `dir`. Works on copies beside the log, which need as much space
    /// as the log; the log does not change. Reads every event of an undamaged log.
    ///
    /// # Errors
    /// If another process has the log open, a copy cannot be made, or nothing can be read (`Corrupt`).
    pub fn of(dir: &Path) -> Result<Self, LogError> {
        salvage(dir).map_err(|error| located(dir, error))
    }

    /// Returns the number of salvaged events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.positions.len() as u64
    }

    /// Returns the number of acknowledged events, if the log still says it.
    #[must_use]
    pub fn promised(&self) -> Option<u64> {
        self.promised
    }

    /// Returns the events that cannot be read, or that depend on such events; the first hundred.
    #[must_use]
    pub fn lost(&self) -> &[Finding] {
        &self.lost
    }

    /// Returns the salvaged events, in log order.
    pub(crate) fn read(&self) -> impl Iterator<Item = Result<Recorded, LogError>> {
        self.positions.iter().map(|&position| guarded(|| self.reader.event(position)))
    }

    fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.promised == Some(self.events())
    }
}

fn salvage(dir: &Path) -> Result<Salvage, LogError> {
    if !dir.is_dir() {
        return Err(LogError::Io { context: "the folder does not exist".to_owned(), source: None });
    }
    let _lock = lock(dir)?;
    // An unreadable tail file promises nothing; its commit is in the database, too.
    let found = Tail::open(&dir.join(tail::FILE_NAME)).ok().flatten().map(|(_, found)| found);
    let mut best: Option<Salvage> = None;
    for without in [&[][..], &["snap."], &["snap.", "conf"]] {
        let copy = copy(dir, without, u64::MAX).map_err(io_error)?;
        if let Ok(salvage) = read_copy(copy, found.as_ref())
            && best.as_ref().is_none_or(|best| salvage.events() > best.events())
        {
            best = Some(salvage);
        }
        if best.as_ref().is_some_and(Salvage::is_whole) {
            break;
        }
    }
    match best {
        Some(best) => Ok(best),
        None => longest_beginning(dir, found.as_ref())?.ok_or_else(unreadable),
    }
}

/// Returns the longest beginning of the database that sled can read.
fn longest_beginning(dir: &Path, found: Option<&Found>) -> Result<Option<Salvage>, LogError> {
    let Ok(db) = std::fs::metadata(dir.join("db")) else { return Ok(None) };
    let (mut reads, mut fails) = (0, db.len().div_ceil(CUT_BYTES));
    let mut longest = None;
    while fails - reads > 1 {
        let middle = reads + (fails - reads) / 2;
        let copy = copy(dir, &["snap.", "conf"], middle * CUT_BYTES).map_err(io_error)?;
        match read_copy(copy, found) {
            Ok(salvage) => (reads, longest) = (middle, Some(salvage)),
            Err(_) => fails = middle,
        }
    }
    Ok(longest)
}

/// Copies a log beside itself, without files of these name prefixes, and its database up to this length.
fn copy(dir: &Path, without: &[&str], db_bytes: u64) -> io::Result<TempDir> {
    let dir = dir.canonicalize()?;
    let parent = dir.parent().unwrap_or(&dir);
    let copy = tempfile::Builder::new().prefix(".salvage-").tempdir_in(parent)?;
    for entry in std::fs::read_dir(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let left_out = without.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        // Values are too small for sled's folder of blobs. The tail file is not part of sled.
        if left_out || name == "lock" || name == tail::FILE_NAME || !entry.file_type()?.is_file() {
            continue;
        }
        let limit = if name == "db" { db_bytes } else { u64::MAX };
        let mut source = File::open(entry.path())?.take(limit);
        io::copy(&mut source, &mut File::create(copy.path().join(&name))?)?;
    }
    Ok(copy)
}

fn read_copy(copy: TempDir, found: Option<&Found>) -> Result<Salvage, LogError> {
    let db = open_sled(copy.path(), &SledOptions::default())?;
    let reader = Reader { tree: (*db).clone() };
    if let Some(found) = found {
        let mut batch = Batch::default();
        found.redo.iter().for_each(|(key, value)| batch.insert(key.as_slice(), value.as_slice()));
        guarded(|| db.apply_batch(batch).map_err(read_error))?;
    }
    let promised = found.map(|found| found.mark.position);
    let mut walk =
        Walk { reader: &reader, versions: HashMap::new(), positions: Vec::new(), lost: Vec::new() };
    walk.all(promised.unwrap_or(0));
    let Walk { positions, lost, .. } = walk;
    if positions.is_empty() && promised != Some(0) {
        return Err(unreadable());
    }
    Ok(Salvage { reader, _copy: copy, positions, promised, lost })
}

fn unreadable() -> LogError {
    LogError::corrupt(LogPart::Events, "no event can be read")
}

fn missing_up_to(position: u64) -> LogError {
    LogError::corrupt(LogPart::Events, format!("events up to {position} are missing"))
}

/// A walk over all readable events.
struct Walk<'a> {
    reader: &'a Reader,
    /// The last salvaged version of each stream.
    versions: HashMap<ExperimentId, u64>,
    positions: Vec<u64>,
    lost: Vec<Finding>,
}

impl Walk<'_> {
    fn all(&mut self, promised: u64) {
        let mut after = 0;
        while let Some(position) = self.next(after, promised) {
            match guarded(|| self.reader.event(position)).and_then(|recorded| self.check(recorded)) {
                Ok(()) => self.positions.push(position),
                Err(error) => self.lose(position, error),
            }
            after = position;
        }
    }

    /// Returns the position of the next event. If the tree cannot be walked, every promised position is
    /// tried.
    fn next(&mut self, after: u64, promised: u64) -> Option<u64> {
        match guarded(|| self.reader.next_position(after)) {
            Ok(Some(next)) => {
                if next > after + 1 {
                    self.lose(after + 1, missing_up_to(next - 1));
                }
                Some(next)
            }
            Ok(None) => {
                if after < promised {
                    self.lose(after + 1, missing_up_to(promised));
                }
                None
            }
            Err(_) => (after < promised).then_some(after + 1),
        }
    }

    fn check(&mut self, recorded: Recorded) -> Result<(), LogError> {
        let at = recorded.position;
        recorded.decode().map_err(|error| damaged_because(at, "the body cannot be decoded", error))?;
        let version = self.versions.entry(recorded.experiment).or_default();
        if recorded.version != *version + 1 {
            return Err(damaged(at, &format!("version {} follows version {version}", recorded.version)));
        }
        *version = recorded.version;
        Ok(())
    }

    fn lose(&mut self, position: u64, error: LogError) {
        if self.lost.len() < FINDINGS_MAX {
            let what = damage_of(error).unwrap_or_else(|error| chain(&error));
            self.lost.push(Finding { position: Some(position), what });
        }
    }
}
