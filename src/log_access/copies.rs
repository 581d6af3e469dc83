//! Reading a log that another process has open.
//!
//! One process at a time has a log, and a run keeps it for as long as it waits for people. Whoever only wants
//! to read meanwhile asks for a copy: it leaves an empty file `log-copies/ID.wanted` in the data folder.
//! Whoever has the log looks there, removes that file, and puts a copy of everything that is durable beside
//! it as `log-copies/ID`, or the reason why not as `log-copies/ID.failed`. The reader deletes what it got;
//! what a killed one has left, its age gives away.
//!
//! A request is a name of letters and digits, and nothing in it is read: what is written for it is new, and
//! in `log-copies`.

use std::fs::{self, DirEntry, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dissent_domain::log::{EventLog, LogError};
use dissent_storage::{SledLog, SledOptions};

use crate::files;
use crate::text::visible;

/// Below the data folder.
const FOLDER: &str = "log-copies";
/// Between two looks for requests.
const LOOK: Duration = Duration::from_millis(200);
/// Between two looks for an answer.
const POLL: Duration = Duration::from_millis(20);
/// Longest wait for a request to be taken up.
const TAKE_UP_MAX: Duration = Duration::from_secs(10);
/// Longest wait for commands that read the log itself.
const READERS_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a copy, in turn with others.
const COPY_MAX: Duration = Duration::from_secs(600);
/// What nobody has open and is older was left by a process that was killed.
const LEFT_MAX: Duration = Duration::from_secs(600);
/// Longest time between two searches for it.
const SWEEP: Duration = Duration::from_secs(60);
/// How long sled may take to let go of a copy that was closed.
const TEARDOWN_MAX: Duration = Duration::from_secs(5);
/// Copies that lie there at the same time.
const COPIES_MAX: usize = 16;
/// Longest id of a request, in bytes.
const ID_BYTES_MAX: usize = 32;
/// Of what is said of a failure.
const REASON_BYTES_MAX: u64 = 4 << 10;

/// A log that is open to be read: a data folder's own, or a copy of it.
pub(crate) struct ReadLog {
    /// Readers keep others from the log, too: they give out copies as everybody does who has it.
    _copier: Option<Copier>,
    log: Arc<SledLog>,
    /// Dropped last: it deletes the copy.
    _asked: Option<Asked>,
}

impl ReadLog {
    /// The log as whoever shares it wants it. Where this is a copy, it is gone when `self` is.
    pub(crate) fn shared(&self) -> Arc<dyn EventLog> {
        self.log.clone()
    }

    fn itself(log: SledLog, data_dir: &Path) -> anyhow::Result<Self> {
        let log = Arc::new(log);
        Ok(Self { _copier: Some(Copier::start(log.clone(), data_dir)?), log, _asked: None })
    }
}

impl Deref for ReadLog {
    type Target = SledLog;

    fn deref(&self) -> &SledLog {
        &self.log
    }
}

/// Opens the log of a data folder to read it; a copy, and says so, if another process has it.
///
/// # Errors
/// If it cannot be opened, or is in use by a process that gives no copy.
pub(crate) fn open(data_dir: &Path, log_dir: &Path) -> anyhow::Result<ReadLog> {
    if let Some(log) = unless_in_use(log_dir)? {
        return ReadLog::itself(log, data_dir);
    }
    let folder = data_dir.join(FOLDER);
    let asked = Asked::put(&folder)
        .with_context(|| format!("failed to ask for a copy of the event log in {}", folder.display()))?;
    let begun = Instant::now();
    loop {
        if let Some(copy) = asked.answer()? {
            let head = copy.head();
            let said = "another process has the event log: this is read from a copy of it";
            writeln!(io::stderr(), "{said}, up to position {head}").context("failed to write to stderr")?;
            return Ok(ReadLog { _copier: None, log: Arc::new(copy), _asked: Some(asked) });
        }
        // Meanwhile it may be done.
        if let Some(log) = unless_in_use(log_dir)? {
            return ReadLog::itself(log, data_dir);
        }
        let patience = if asked.is_taken_up() { COPY_MAX } else { TAKE_UP_MAX };
        if begun.elapsed() > patience {
            let seconds = patience.as_secs();
            return Err(LogError::InUse(log_dir.display().to_string())).with_context(|| {
                format!(
                    "whoever has the event log gave no copy to read within {seconds} s: a run or a server that is stopped or of \
                     another version, or a command that is soon done (then try again)"
                )
            });
        }
        std::thread::sleep(POLL);
    }
}

/// Opens a log to write it. Commands that only read have it for a moment at most: they are waited for.
///
/// # Errors
/// If it cannot be opened, or another process keeps it.
pub(crate) fn to_write(log_dir: &Path) -> Result<SledLog, LogError> {
    let begun = Instant::now();
    loop {
        match unless_in_use(log_dir)? {
            Some(log) => return Ok(log),
            None if begun.elapsed() < READERS_MAX => std::thread::sleep(POLL),
            None => return Err(LogError::InUse(log_dir.display().to_string())),
        }
    }
}

fn unless_in_use(log_dir: &Path) -> Result<Option<SledLog>, LogError> {
    match SledLog::open(log_dir, &SledOptions::default()) {
        Ok(log) => Ok(Some(log)),
        Err(LogError::InUse(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A reader's request, and what came of it: gone when dropped.
struct Asked {
    wanted: PathBuf,
    copy: PathBuf,
    failed: PathBuf,
}

impl Asked {
    fn put(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let file =
            tempfile::Builder::new().prefix("").rand_bytes(16).suffix(".wanted").tempfile_in(folder)?;
        let wanted = file.into_temp_path().keep()?;
        Ok(Self { copy: wanted.with_extension(""), failed: wanted.with_extension("failed"), wanted })
    }

    fn is_taken_up(&self) -> bool {
        !self.wanted.exists()
    }

    fn answer(&self) -> anyhow::Result<Option<SledLog>> {
        if self.copy.is_dir() {
            return Ok(Some(SledLog::open(&self.copy, &SledOptions::default())?));
        }
        let Ok(file) = File::open(&self.failed) else { return Ok(None) };
        let mut reason = Vec::new();
        file.take(REASON_BYTES_MAX).read_to_end(&mut reason)?;
        let reason = visible(&String::from_utf8_lossy(&reason));
        anyhow::bail!("the process that has the event log gives no copy to read: {reason}")
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Not there, or deleted by age one day.
        let _ = fs::remove_file(&self.wanted);
        let _ = fs::remove_file(&self.failed);
        let begun = Instant::now();
        while let Err(error) = fs::remove_dir_all(&self.copy)
            && error.kind() != io::ErrorKind::NotFound
            && begun.elapsed() < TEARDOWN_MAX
        {
            std::thread::sleep(POLL);
        }
    }
}

/// Gives out copies of a log for as long as it lives. Dropping it waits for the one that is being made.
pub(crate) struct Copier {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Copier {
    /// Begins to look for requests in the data folder of the log.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub(crate) fn start(log: Arc<SledLog>, data_dir: &Path) -> anyhow::Result<Self> {
        let (folder, stop) = (data_dir.join(FOLDER), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("log-copies".to_owned());
        let thread = thread.spawn(move || look(&log, &folder, &stopped));
        Ok(Self { stop, thread: Some(thread.context("failed to start a thread")?) })
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Takes requests up as they come, however long the copy takes that is being made: their readers see that
/// somebody is there.
fn look(log: &SledLog, folder: &Path, stop: &AtomicBool) {
    let (taken_up, queue) = sync_channel(COPIES_MAX);
    std::thread::scope(|scope| {
        scope.spawn(move || copy_one_by_one(log, folder, &queue, stop));
        while !stop.load(Ordering::Acquire) {
            // One that cannot be removed would be taken up again and again; one that is gone is not wanted
            // any more.
            let wanted = requests(folder).into_iter().filter(|wanted| fs::remove_file(wanted).is_ok());
            for wanted in wanted {
                let _ = taken_up.send(wanted.with_extension(""));
            }
            std::thread::park_timeout(LOOK);
        }
        drop(taken_up);
    });
}

fn copy_one_by_one(log: &SledLog, folder: &Path, queue: &Receiver<PathBuf>, stop: &AtomicBool) {
    loop {
        // In this thread, as what is left and what is being made look alike.
        sweep(folder);
        match queue.recv_timeout(SWEEP) {
            // Whoever waits when this ends finds the log free.
            Ok(copy) if !stop.load(Ordering::Acquire) => answer(log, folder, &copy),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What lies in the folder, if it is one and no way to another.
fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> {
    let is_folder = fs::symlink_metadata(folder).is_ok_and(|folder| folder.is_dir());
    let entries = is_folder.then(|| fs::read_dir(folder).ok()).flatten();
    entries.into_iter().flatten().flatten()
}

/// The requests, as many as there may be copies.
fn requests(folder: &Path) -> Vec<PathBuf> {
    let is_file = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_file());
    let paths = entries(folder).filter(is_file).map(|entry| entry.path());
    paths.filter(|path| is_request(path)).take(COPIES_MAX).collect()
}

fn is_request(path: &Path) -> bool {
    let id = path.file_stem().and_then(|id| id.to_str()).unwrap_or_default();
    let is_id = (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id && path.extension().is_some_and(|extension| extension == "wanted")
}

fn answer(log: &SledLog, folder: &Path, copy: &Path) {
    match has_room(log, folder).and_then(|()| Ok(log.backup(copy)?)) {
        Ok(events) => tracing::debug!(events, "the event log was copied for a command that reads it"),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "no copy of the event log for a command that reads it"
            );
            if let Err(error) = say_why(&format!("{error:#}"), folder, &copy.with_extension("failed")) {
                tracing::warn!(%error, "nor can it be told why");
            }
        }
    }
}

/// Whether a copy takes neither the disk's space from whoever writes the log, nor too much.
fn has_room(log: &SledLog, folder: &Path) -> anyhow::Result<()> {
    let copies = entries(folder).filter(|entry| entry.path().is_dir()).count();
    anyhow::ensure!(copies < COPIES_MAX, "there are {copies} in {} already", folder.display());
    let (needed, free) = (log.bytes_on_disk()?, files::available_space(folder)?);
    let mib = |bytes: u64| bytes >> 20;
    anyhow::ensure!(
        needed <= free / 2,
        "it may take {} MiB, and of {} MiB that the disk has left half are kept for the log",
        mib(needed),
        mib(free)
    );
    Ok(())
}

/// The reason appears whole.
fn say_why(reason: &str, folder: &Path, failed: &Path) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(reason.as_bytes())?;
    file.persist(failed).map(drop).map_err(|error| error.error)
}

/// Deletes what processes that were killed have left. Only who has the log does, while it makes no copy.
fn sweep(folder: &Path) {
    for entry in entries(folder).filter(is_left) {
        let path = entry.path();
        let deleted = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = deleted {
            tracing::warn!(path = %path.display(), %error, "failed to delete a copy of the event log that was left");
        }
    }
}

fn is_left(entry: &DirEntry) -> bool {
    let Ok(metadata) = entry.metadata() else { return false };
    let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
    let is_old = age.is_some_and(|age| age > LEFT_MAX);
    is_old && !(metadata.is_dir() && SledLog::is_in_use(&entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(data_dir: &Path) -> Arc<SledLog> {
        Arc::new(SledLog::open(data_dir.join("log"), &SledOptions::default()).unwrap())
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            entries(folder).map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn whoever_writes_waits_for_readers_and_not_for_ever() {
        let data = tempfile::tempdir().unwrap();
        let (folder, reader) = (data.path().join("log"), log(data.path()));
        let reading = std::thread::spawn(move || {
            std::thread::sleep(LOOK);
            drop(reader);
        });
        let written = to_write(&folder).unwrap();
        reading.join().unwrap();
        assert!(matches!(to_write(&folder), Err(LogError::InUse(_))), "it is kept");
        drop(written);
    }

    #[test]
    fn readers_get_copies_side_by_side_and_leave_nothing() {
        let data = tempfile::tempdir().unwrap();
        let log = log(data.path());
        let copier = Copier::start(log.clone(), data.path()).unwrap();
        let readers: Vec<ReadLog> =
            (0..3).map(|_| open(data.path(), &data.path().join("log")).unwrap()).collect();
        for reader in &readers {
            assert_eq!(
                (reader.head(), reader.dir().parent()),
                (log.head(), Some(&*data.path().join(FOLDER)))
            );
        }
        drop(readers);
        assert_eq!(names(&data.path().join(FOLDER)), [""; 0]);
        drop((copier, log));
        let itself = open(data.path(), &data.path().join("log")).unwrap();
        assert_eq!(itself.dir(), data.path().join("log"));
        assert!(
            matches!(open(data.path(), &data.path().join("log")), Ok(copy) if copy.dir() != itself.dir())
        );
    }

    #[test]
    fn only_plain_names_are_requests_and_only_in_the_folder_itself() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join(FOLDER);
        assert!(requests(&folder).is_empty());
        fs::create_dir(&folder).unwrap();
        let long = format!("{}.wanted", "a".repeat(ID_BYTES_MAX + 1));
        for name in
            ["Ab1.wanted", ".wanted", ".a.wanted", "a b.wanted", "..b.wanted", "ä.wanted", "a.failed", &long]
        {
            fs::write(folder.join(name), "../elsewhere").unwrap();
        }
        fs::create_dir(folder.join("dir.wanted")).unwrap();
        std::os::unix::fs::symlink(folder.join("Ab1.wanted"), folder.join("link.wanted")).unwrap();
        assert_eq!(requests(&folder), [folder.join("Ab1.wanted")]);
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&folder, elsewhere.path().join(FOLDER)).unwrap();
        assert!(requests(&elsewhere.path().join(FOLDER)).is_empty());
    }

    #[test]
    fn a_reader_is_told_why_there_is_no_copy() {
        let data = tempfile::tempdir().unwrap();
        let log = log(data.path());
        let folder = data.path().join(FOLDER);
        let asked = Asked::put(&folder).unwrap();
        assert!(!asked.is_taken_up() && asked.answer().unwrap().is_none());
        for copy in 0..COPIES_MAX {
            fs::create_dir(folder.join(copy.to_string())).unwrap();
        }
        fs::remove_file(&asked.wanted).unwrap();
        answer(&log, &folder, &asked.copy);
        assert!(asked.is_taken_up());
        let refused = asked.answer().err().unwrap().to_string();
        assert!(refused.contains("gives no copy to read: there are 16 in"), "{refused}");
        let failed = asked.failed.clone();
        drop(asked);
        assert!(!failed.exists());
    }

    #[test]
    fn what_was_left_is_deleted_once_it_is_old_unless_it_is_read() {
        let data = tempfile::tempdir().unwrap();
        let log = log(data.path());
        let folder = data.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        for name in ["left", "read", "young"] {
            log.backup(&folder.join(name)).unwrap();
        }
        fs::write(folder.join("left.wanted"), "").unwrap();
        let read = SledLog::open(folder.join("read"), &SledOptions::default()).unwrap();
        for name in ["left", "left.wanted", "read"] {
            let file = File::open(folder.join(name)).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.set_modified(modified - LEFT_MAX - Duration::from_secs(1)).unwrap();
        }
        sweep(&folder);
        assert_eq!(names(&folder), ["read", "young"]);
        drop(read);
    }
}
