//! Read access to an event log that another process has open.
//!
//! One process at a time has a log open, and a run keeps it open while it waits for people. Meanwhile a
//! reader requests a copy: it creates an empty file `log-copies/ID.wanted` in the data folder. The process
//! that has the log open polls this folder and removes the request. It then writes a copy of all durable
//! events to `log-copies/ID`, or the reason of a failure to `log-copies/ID.failed`. The reader deletes the
//! reply. Requests and copies of killed readers are deleted by age.
//!
//! An id consists of letters and digits, and the content of a request is never read. A request therefore
//! causes new files in `log-copies` only.

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

/// Folder of requests and copies in the data folder.
const FOLDER: &str = "log-copies";
/// Interval between two scans for requests.
const SCAN_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between two polls of a reader or writer.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait until a request is accepted.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait of a writer for commands that read the log.
const READERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a copy, including the copies before it.
const COPY_TIMEOUT: Duration = Duration::from_secs(600);
/// Age after which an unopened copy is an orphan and is deleted.
const ORPHAN_AGE: Duration = Duration::from_secs(600);
/// Longest interval between two sweeps for orphans.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Longest wait until sled releases a closed copy.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of copies in the folder at the same time.
const COPIES_MAX: usize = 16;
/// Longest id of a request, in bytes.
const ID_BYTES_MAX: usize = 32;
/// Longest failure reason that is read, in bytes.
const REASON_BYTES_MAX: u64 = 4 << 10;

/// A log opened for reading: the log of a data folder, or a copy of it.
pub(crate) struct ReadLog {
    /// Serves copies to other readers, because a reader blocks them from the log, too.
    _copier: Option<Copier>,
    log: Arc<SledLog>,
    /// Deletes the copy; dropped last.
    _request: Option<CopyRequest>,
}

impl ReadLog {
    /// Returns the log for shared use. A copy is deleted when `self` is dropped.
    pub(crate) fn shared(&self) -> Arc<dyn EventLog> {
        self.log.clone()
    }

    fn original(log: SledLog, data_dir: &Path) -> anyhow::Result<Self> {
        let log = Arc::new(log);
        Ok(Self { _copier: Some(Copier::start(log.clone(), data_dir)?), log, _request: None })
    }
}

impl Deref for ReadLog {
    type Target = SledLog;

    fn deref(&self) -> &SledLog {
        &self.log
    }
}

/// Opens the log of a data folder for reading. If another process has the log open, requests a copy and
/// prints a notice to stderr.
///
/// # Errors
/// If the log cannot be opened, or the process that has it open makes no copy in time.
pub(crate) fn open(data_dir: &Path, log_dir: &Path) -> anyhow::Result<ReadLog> {
    if let Some(log) = open_unless_in_use(log_dir)? {
        return ReadLog::original(log, data_dir);
    }
    let folder = data_dir.join(FOLDER);
    let request = CopyRequest::create(&folder)
        .with_context(|| format!("failed to request a copy of the event log in {}", folder.display()))?;
    let begun = Instant::now();
    loop {
        if let Some(copy) = request.reply()? {
            let head = copy.head();
            let notice = "another process has the event log open: reading a copy";
            writeln!(io::stderr(), "{notice} up to position {head}").context("failed to write to stderr")?;
            return Ok(ReadLog { _copier: None, log: Arc::new(copy), _request: Some(request) });
        }
        // The other process may have ended meanwhile.
        if let Some(log) = open_unless_in_use(log_dir)? {
            return ReadLog::original(log, data_dir);
        }
        let timeout = if request.is_accepted() { COPY_TIMEOUT } else { ACCEPT_TIMEOUT };
        if begun.elapsed() > timeout {
            let seconds = timeout.as_secs();
            return Err(LogError::InUse(log_dir.display().to_string())).with_context(|| {
                format!(
                    "no copy of the event log within {seconds} s: the process that owns the log is busy or suspended, or \
                     runs another version; stop that process, then retry"
                )
            });
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Opens a log for writing. Commands that only read close it soon, so it waits up to `READERS_TIMEOUT`.
///
/// # Errors
/// If the log cannot be opened, or another process keeps it open.
pub(crate) fn open_for_writing(log_dir: &Path) -> Result<SledLog, LogError> {
    let begun = Instant::now();
    loop {
        match open_unless_in_use(log_dir)? {
            Some(log) => return Ok(log),
            None if begun.elapsed() < READERS_TIMEOUT => std::thread::sleep(POLL_INTERVAL),
            None => return Err(LogError::InUse(log_dir.display().to_string())),
        }
    }
}

/// Returns `None` if another process has the log open.
fn open_unless_in_use(log_dir: &Path) -> Result<Option<SledLog>, LogError> {
    match SledLog::open(log_dir, &SledOptions::default()) {
        Ok(log) => Ok(Some(log)),
        Err(LogError::InUse(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A reader's request and the paths of its reply. Dropping it deletes both.
struct CopyRequest {
    wanted: PathBuf,
    copy: PathBuf,
    failed: PathBuf,
}

impl CopyRequest {
    fn create(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let file =
            tempfile::Builder::new().prefix("").rand_bytes(16).suffix(".wanted").tempfile_in(folder)?;
        let wanted = file.into_temp_path().keep()?;
        Ok(Self { copy: wanted.with_extension(""), failed: wanted.with_extension("failed"), wanted })
    }

    fn is_accepted(&self) -> bool {
        !self.wanted.exists()
    }

    /// Returns the copy, or `None` while it is being made.
    ///
    /// # Errors
    /// If the copy failed, with the reason of the process that has the log open.
    fn reply(&self) -> anyhow::Result<Option<SledLog>> {
        if self.copy.is_dir() {
            return Ok(Some(SledLog::open(&self.copy, &SledOptions::default())?));
        }
        let Ok(file) = File::open(&self.failed) else { return Ok(None) };
        let mut reason = Vec::new();
        file.take(REASON_BYTES_MAX).read_to_end(&mut reason)?;
        let reason = visible(&String::from_utf8_lossy(&reason));
        anyhow::bail!("the process that has the event log open made no copy: {reason}")
    }
}

impl Drop for CopyRequest {
    fn drop(&mut self) {
        // A missing file is no failure, and a remaining one is deleted by age.
        let _ = fs::remove_file(&self.wanted);
        let _ = fs::remove_file(&self.failed);
        let begun = Instant::now();
        while let Err(error) = fs::remove_dir_all(&self.copy)
            && error.kind() != io::ErrorKind::NotFound
            && begun.elapsed() < RELEASE_TIMEOUT
        {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Serves copies of a log on a thread of its own. Dropping it waits for the copy in progress.
pub(crate) struct Copier {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Copier {
    /// Starts to poll the data folder for requests.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start(log: Arc<SledLog>, data_dir: &Path) -> anyhow::Result<Self> {
        let (folder, stop) = (data_dir.join(FOLDER), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("log-copies".to_owned());
        let thread = thread.spawn(move || accept_requests(&log, &folder, &stopped));
        Ok(Self {
            stop,
            thread: Some(thread.context("failed to start the thread that copies the event log")?),
        })
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

/// Accepts requests, also while a copy is in progress. This shows waiting readers that the process is alive.
fn accept_requests(log: &SledLog, folder: &Path, stop: &AtomicBool) {
    let (accepted, queue) = sync_channel(COPIES_MAX);
    std::thread::scope(|scope| {
        scope.spawn(move || make_copies(log, folder, &queue, stop));
        while !stop.load(Ordering::Acquire) {
            // A request that cannot be removed would be accepted repeatedly. A missing request was
            // withdrawn.
            let wanted = requests(folder).into_iter().filter(|wanted| fs::remove_file(wanted).is_ok());
            for wanted in wanted {
                let _ = accepted.send(wanted.with_extension(""));
            }
            std::thread::park_timeout(SCAN_INTERVAL);
        }
        drop(accepted);
    });
}

fn make_copies(log: &SledLog, folder: &Path, queue: &Receiver<PathBuf>, stop: &AtomicBool) {
    loop {
        // On this thread, because an orphan and a copy in progress look alike.
        sweep(folder);
        match queue.recv_timeout(SWEEP_INTERVAL) {
            // After a stop, waiting readers open the log itself.
            Ok(copy) if !stop.load(Ordering::Acquire) => make_copy(log, folder, &copy),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Returns the entries of the folder. A missing folder or a link counts as empty.
fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> {
    let is_folder = fs::symlink_metadata(folder).is_ok_and(|folder| folder.is_dir());
    let entries = is_folder.then(|| fs::read_dir(folder).ok()).flatten();
    entries.into_iter().flatten().flatten()
}

/// Returns the pending requests, at most [`COPIES_MAX`].
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

fn make_copy(log: &SledLog, folder: &Path, copy: &Path) {
    match check_space(log, folder).and_then(|()| Ok(log.backup(copy)?)) {
        Ok(events) => tracing::debug!(events, "copied event log for a reader"),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "failed to copy event log for a reader");
            if let Err(error) = write_reason(&format!("{error:#}"), folder, &copy.with_extension("failed")) {
                tracing::warn!(%error, "failed to report the failed copy to its reader");
            }
        }
    }
}

/// Checks the number of copies, and that a further copy leaves half of the free space to the log.
fn check_space(log: &SledLog, folder: &Path) -> anyhow::Result<()> {
    let copies = entries(folder).filter(|entry| entry.path().is_dir()).count();
    anyhow::ensure!(
        copies < COPIES_MAX,
        "{} holds {copies} copies: try again when their readers have ended",
        folder.display()
    );
    let (needed, free) = (log.bytes_on_disk()?, files::available_space(folder)?);
    let mib = |bytes: u64| bytes >> 20;
    anyhow::ensure!(
        needed <= free / 2,
        "a copy may take {} MiB, more than half of the {} MiB that are free: free disk space",
        mib(needed),
        mib(free)
    );
    Ok(())
}

/// Writes the reason of a failure atomically.
fn write_reason(reason: &str, folder: &Path, failed: &Path) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(reason.as_bytes())?;
    file.persist(failed).map(drop).map_err(|error| error.error)
}

/// Deletes orphans of killed processes. The process that has the log open does so while it makes no copy.
fn sweep(folder: &Path) {
    for entry in entries(folder).filter(is_orphan) {
        let path = entry.path();
        let deleted = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = deleted {
            tracing::warn!(path = %path.display(), %error, "failed to delete orphaned copy of the event log");
        }
    }
}

fn is_orphan(entry: &DirEntry) -> bool {
    let Ok(metadata) = entry.metadata() else { return false };
    let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
    let is_old = age.is_some_and(|age| age > ORPHAN_AGE);
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
    fn writer_waits_for_readers_with_timeout() {
        let data = tempfile::tempdir().unwrap();
        let (folder, reader) = (data.path().join("log"), log(data.path()));
        let reading = std::thread::spawn(move || {
            std::thread::sleep(SCAN_INTERVAL);
            drop(reader);
        });
        let writer = open_for_writing(&folder).unwrap();
        reading.join().unwrap();
        assert!(matches!(open_for_writing(&folder), Err(LogError::InUse(_))), "a writer keeps the log open");
        drop(writer);
    }

    #[test]
    fn concurrent_readers_get_copies_and_delete_them() {
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
        let original = open(data.path(), &data.path().join("log")).unwrap();
        assert_eq!(original.dir(), data.path().join("log"));
        assert!(
            matches!(open(data.path(), &data.path().join("log")), Ok(copy) if copy.dir() != original.dir())
        );
    }

    #[test]
    fn requests_have_plain_names_and_are_in_no_linked_folder() {
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
    fn a_reader_receives_the_reason_of_a_failed_copy() {
        let data = tempfile::tempdir().unwrap();
        let log = log(data.path());
        let folder = data.path().join(FOLDER);
        let request = CopyRequest::create(&folder).unwrap();
        assert!(!request.is_accepted() && request.reply().unwrap().is_none());
        for copy in 0..COPIES_MAX {
            fs::create_dir(folder.join(copy.to_string())).unwrap();
        }
        fs::remove_file(&request.wanted).unwrap();
        make_copy(&log, &folder, &request.copy);
        assert!(request.is_accepted());
        let error = request.reply().err().unwrap().to_string();
        assert!(error.contains("holds 16 copies"), "{error}");
        let failed = request.failed.clone();
        drop(request);
        assert!(!failed.exists());
    }

    #[test]
    fn orphans_are_deleted_by_age_unless_they_are_open() {
        let data = tempfile::tempdir().unwrap();
        let log = log(data.path());
        let folder = data.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        for name in ["orphan", "open", "young"] {
            log.backup(&folder.join(name)).unwrap();
        }
        fs::write(folder.join("orphan.wanted"), "").unwrap();
        let open = SledLog::open(folder.join("open"), &SledOptions::default()).unwrap();
        for name in ["orphan", "orphan.wanted", "open"] {
            let file = File::open(folder.join(name)).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.set_modified(modified - ORPHAN_AGE - Duration::from_secs(1)).unwrap();
        }
        sweep(&folder);
        assert_eq!(names(&folder), ["open", "young"]);
        drop(open);
    }
}
