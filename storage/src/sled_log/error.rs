//! Conversion of sled's and the system's errors into errors of the log.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dissent_domain::log::LogError;

pub(super) fn located(dir: &Path, error: LogError) -> LogError {
    let dir = dir.display();
    match error {
        LogError::Corrupt(what) => LogError::Corrupt(format!(
            "{dir}: {what}; restore a backup, or export the intact events with log export --salvage and import them into a \
                 new log"
        )),
        LogError::Io(what) => LogError::Io(format!("{dir}: {what}")),
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

pub(super) fn io_error(error: io::Error) -> LogError {
    LogError::Io(error.to_string())
}

/// Returns the error for damage at an event.
pub(super) fn damaged(position: u64, what: &str) -> LogError {
    LogError::Corrupt(format!("event {position}: {what}"))
}

/// Converts an error of sled.
pub(super) fn read_error(error: sled::Error) -> LogError {
    match error {
        sled::Error::Io(error) => LogError::Io(system_text(&error)),
        sled::Error::Corruption { .. } => {
            LogError::Corrupt("a checksum of the database does not match".to_owned())
        }
        sled::Error::CollectionNotFound(_) | sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => {
            LogError::Corrupt(error.to_string())
        }
    }
}

/// Returns the text of a system error. sled may have wrapped it in a debug format.
pub(super) fn system_text(error: &io::Error) -> String {
    if error.raw_os_error().is_some() { error.to_string() } else { error.kind().to_string() }
}

/// Runs `work` on sled and converts a panic into an error: sled panics on some damage.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(LogError::Corrupt(format!("the database panicked: {message:?}")))
    })
}
