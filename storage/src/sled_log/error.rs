//! Conversion of sled's and the system's errors into errors of the log.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dissent_domain::error::chain;
use dissent_domain::log::{LogError, LogPart};

pub(super) fn located(dir: &Path, error: LogError) -> LogError {
    let dir = dir.display();
    match error {
        LogError::Corrupt { part, reason, source } => {
            let reason = format!(
                "{dir}: {reason} (restore a backup, or export the sound events with `dissent log export --salvage` and \
                 import them into a new log)"
            );
            LogError::Corrupt { part, reason, source }
        }
        LogError::Io { context, source } => LogError::Io { context: format!("{dir}: {context}"), source },
        LogError::Invalid(what) => LogError::Invalid(format!("{dir}: {what}")),
        LogError::InUse(_) => LogError::InUse(dir.to_string()),
        LogError::NewerFormat { format, known, .. } => {
            LogError::NewerFormat { log: dir.to_string(), format, known }
        }
        other @ (LogError::WrongVersion { .. }
        | LogError::Closed
        | LogError::OutOfRange { .. }
        | LogError::Exists(_)) => other,
    }
}

/// The damage that an error of the log describes, with its cause; otherwise the error.
pub(super) fn damage_of(error: LogError) -> Result<String, LogError> {
    let LogError::Corrupt { reason, source, .. } = error else { return Err(error) };
    Ok(match source {
        Some(source) => format!("{reason}: {}", chain(&source)),
        None => reason,
    })
}

pub(super) fn io_error(error: io::Error) -> LogError {
    LogError::io("a file operation failed", error)
}

/// Returns the error for damage at an event.
pub(super) fn damaged(position: u64, what: &str) -> LogError {
    LogError::corrupt(LogPart::Event(position), format!("event {position}: {what}"))
}

/// The error for damage at an event that another error shows.
pub(super) fn damaged_because(
    position: u64,
    what: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> LogError {
    LogError::corrupt_because(LogPart::Event(position), format!("event {position}: {what}"), error)
}

/// Converts an error of sled.
pub(super) fn read_error(error: sled::Error) -> LogError {
    match error {
        sled::Error::Io(error) => LogError::io("the database failed", system_error(error)),
        sled::Error::Corruption { .. } => {
            LogError::corrupt(LogPart::Database, "a checksum of the database does not match")
        }
        sled::Error::CollectionNotFound(_) | sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => {
            LogError::corrupt_because(LogPart::Database, "the database cannot be read", error)
        }
    }
}

/// The error of the system. sled may have wrapped it in a debug format.
fn system_error(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() { error } else { error.kind().into() }
}

/// Runs `work` on sled and converts a panic into an error: sled panics on some damage.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(LogError::corrupt(LogPart::Database, format!("the database panicked: {message:?}")))
    })
}
