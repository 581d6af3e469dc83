//! Opens the event log of a data folder.

use std::io::ErrorKind;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use dissent_storage::{LogStat, SledLog, SledOptions, VerifyReport};

use super::door::{self, LocalDoor};
use super::ownership;
use super::remote_log::{NoRemoteLog, RemoteLog};
use crate::error::BadInput;

/// Interval between two attempts to open a log.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait of a writer for commands that read the log.
const READERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait of a reader for a process that has the log and does not answer at the local door yet. Opening
/// a log takes a second.
const DOOR_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after which a reader says that it waits.
const NOTICE_AFTER: Duration = Duration::from_secs(1);

/// A log opened for reading: the log of a data folder itself, or that of the process that has it open.
pub(crate) struct ReadLog(Source);

enum Source {
    /// The door lets others read meanwhile. It closes before the log does.
    Own {
        _door: LocalDoor,
        log: Arc<SledLog>,
    },
    Remote(Arc<RemoteLog>),
}

impl ReadLog {
    fn own(log: SledLog, data_dir: &Path) -> anyhow::Result<Self> {
        let log = Arc::new(log);
        let door = LocalDoor::start(log.clone(), data_dir, Router::new())?;
        Ok(Self(Source::Own { _door: door, log }))
    }

    /// Returns the log for shared use.
    pub(crate) fn shared(&self) -> Arc<dyn EventLog> {
        match &self.0 {
            Source::Own { log, .. } => log.clone(),
            Source::Remote(log) => log.clone(),
        }
    }

    /// Whether another process has the log open.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.0, Source::Remote(_))
    }

    /// Counts the content of the log, in the process that has it open.
    ///
    /// # Errors
    /// If the log is damaged or unreadable.
    pub(crate) fn stat(&self) -> Result<LogStat, LogError> {
        match &self.0 {
            Source::Own { log, .. } => log.stat(),
            Source::Remote(log) => log.stat(),
        }
    }

    /// Checks the whole log, in the process that has it open.
    ///
    /// # Errors
    /// If the log is unreadable. Damage is in the report.
    pub(crate) fn verify(&self) -> Result<VerifyReport, LogError> {
        match &self.0 {
            Source::Own { log, .. } => log.verify(),
            Source::Remote(log) => log.verify(),
        }
    }
}

impl Deref for ReadLog {
    type Target = dyn EventLog;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Source::Own { log, .. } => &**log,
            Source::Remote(log) => &**log,
        }
    }
}

/// Returns the folder of the event log in a data folder.
pub(crate) fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

/// Opens the event log of a data folder for reading, through the process that has it open if there is one. A
/// notice on stderr then says so.
///
/// # Errors
/// If there is no log, it cannot be opened, or the process that has it open does not answer.
pub(crate) fn read_log(data_dir: &Path) -> anyhow::Result<ReadLog> {
    let log_dir = existing_log_dir(data_dir)?;
    let socket = door::socket(data_dir);
    let begun = Instant::now();
    let mut is_noted = false;
    loop {
        match RemoteLog::open(&socket) {
            Ok(log) => {
                let head = log.head();
                note(&format!(
                    "another process has the event log open: reading through it up to position {head}"
                ))?;
                ownership::keep_beside_log(data_dir);
                return Ok(ReadLog(Source::Remote(Arc::new(log))));
            }
            Err(NoRemoteLog::Failed(error)) => return Err(error.into()),
            Err(NoRemoteLog::Nobody) => {}
        }
        let opened = open_unless_in_use(data_dir, &log_dir);
        if let Some(log) = opened.map_err(|error| with_permission_hint(error, data_dir))? {
            return ReadLog::own(log, data_dir);
        }
        // Between the opening of a log and that of its door, and between their ends.
        if begun.elapsed() > DOOR_TIMEOUT {
            return Err(LogError::InUse(log_dir.display().to_string())).with_context(|| {
                format!(
                    "nobody answers at {}: the process that has the event log open is of an older version, runs on \
                     another host, or could not make the socket; run the command there, or stop that process",
                    socket.display()
                )
            });
        }
        if !is_noted && begun.elapsed() > NOTICE_AFTER {
            is_noted = true;
            note(&format!("the event log is in use: waiting for an answer at {}", socket.display()))?;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn note(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").context("failed to write to stderr")
}

/// A log that can be changed: here, or by the process that has it open.
pub(crate) enum WritableLog {
    Here(SledLog),
    /// The socket at which the process that has the log open answers.
    Door(PathBuf),
    /// A process has the log open, and nobody answers.
    InUse,
}

/// Opens the log of a data folder for reading and writing, or finds the process that has it open.
///
/// # Errors
/// If there is no log, or it cannot be opened.
pub(crate) fn writable(data_dir: &Path) -> anyhow::Result<WritableLog> {
    let log_dir = existing_log_dir(data_dir)?;
    let socket = door::socket(data_dir);
    let begun = Instant::now();
    loop {
        match RemoteLog::open(&socket) {
            Ok(_) => return Ok(WritableLog::Door(socket)),
            Err(NoRemoteLog::Failed(error)) => return Err(error.into()),
            Err(NoRemoteLog::Nobody) => {}
        }
        let opened = open_unless_in_use(data_dir, &log_dir);
        if let Some(log) = opened.map_err(|error| with_permission_hint(error, data_dir))? {
            return Ok(WritableLog::Here(log));
        }
        if begun.elapsed() > READERS_TIMEOUT {
            return Ok(WritableLog::InUse);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Opens the event log of a data folder for reading and writing.
///
/// # Errors
/// If there is no log, or another process has it open.
pub(crate) fn open_log(data_dir: &Path) -> anyhow::Result<SledLog> {
    let log_dir = existing_log_dir(data_dir)?;
    let log = open_unless_in_use(data_dir, &log_dir)?;
    Ok(log.ok_or_else(|| LogError::InUse(log_dir.display().to_string()))?)
}

/// Opens the log of a data folder for writing, and creates it if there is none. Commands that only read close
/// it soon, so it waits up to `READERS_TIMEOUT`.
///
/// # Errors
/// If the log cannot be opened, or another process keeps it open.
pub(crate) fn open_for_writing(data_dir: &Path) -> Result<SledLog, LogError> {
    let log_dir = log_dir(data_dir);
    let begun = Instant::now();
    loop {
        match open_unless_in_use(data_dir, &log_dir)? {
            Some(log) => return Ok(log),
            None if begun.elapsed() < READERS_TIMEOUT => std::thread::sleep(POLL_INTERVAL),
            None => return Err(LogError::InUse(log_dir.display().to_string())),
        }
    }
}

/// Adds the users who can open a log, if this one may not.
fn with_permission_hint(error: LogError, data_dir: &Path) -> anyhow::Error {
    let is_denied = matches!(
        &error,
        LogError::Io { source: Some(cause), .. } if cause.io_kind() == Some(ErrorKind::PermissionDenied)
    );
    let error = anyhow::Error::from(error);
    if is_denied { error.context(permission_hint(data_dir)) } else { error }
}

fn permission_hint(data_dir: &Path) -> String {
    format!(
        "no permission for the event log in {}: run the command as the owner of that folder; members of its group can \
         read the log while a server or a run has it open",
        data_dir.display()
    )
}

/// Returns `None` if another process has the log open.
fn open_unless_in_use(data_dir: &Path, log_dir: &Path) -> Result<Option<SledLog>, LogError> {
    match SledLog::open(log_dir, &SledOptions::default()) {
        Ok(log) => {
            ownership::keep(data_dir);
            Ok(Some(log))
        }
        Err(LogError::InUse(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the folder of the event log.
///
/// # Errors
/// [`BadInput`] if there is no log.
pub(crate) fn existing_log_dir(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = log_dir(data_dir);
    let found = std::fs::metadata(&dir);
    if found.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        return Err(BadInput(permission_hint(data_dir)).into());
    }
    if !found.is_ok_and(|found| found.is_dir()) {
        let reason = format!(
            "no event log in {}: name its data folder with --data-dir, or the experiment by its configuration",
            data_dir.display()
        );
        return Err(BadInput(reason).into());
    }
    Ok(dir)
}

/// Checks that the log has this experiment.
///
/// # Errors
/// [`BadInput`] with the names that the log has.
pub(crate) fn require_experiment(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<()> {
    let streams = log.streams()?;
    if streams.iter().any(|(name, _)| name == experiment) {
        return Ok(());
    }
    let names: Vec<&str> = streams.iter().map(|(name, _)| name.as_str()).collect();
    let content = if names.is_empty() { "is empty".to_owned() } else { format!("has {}", names.join(", ")) };
    Err(BadInput(format!("unknown experiment {experiment}: the log {content}{}", path_hint(experiment)))
        .into())
}

/// Returns the end of an error about an unknown name that may have been meant as the path of a configuration;
/// empty for other names.
pub(crate) fn path_hint(experiment: &ExperimentId) -> String {
    let name = experiment.as_str();
    if Path::new(name).is_file() {
        format!("; for the configuration write ./{name}")
    } else if name.to_ascii_lowercase().ends_with(".toml") {
        "; there is no such configuration either".to_owned()
    } else {
        String::new()
    }
}
