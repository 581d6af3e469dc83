//! Errors of the log: their making from those of sled and of the system.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dissent_domain::log::LogError;

pub(super) fn located(dir: &Path, error: LogError) -> LogError {
    let dir = dir.display();
    match error {
        LogError::Corrupt(what) => LogError::Corrupt(format!(
            "{dir}: {what}; restore a backup, or save what is sound with log export --salvage and import it into a \
                 new log"
        )),
        LogError::Io(what) => LogError::Io(format!("{dir}: {what}")),
        LogError::Invalid(what) => LogError::Invalid(format!("{dir}: {what}")),
        LogError::InUse(_) => LogError::InUse(dir.to_string()),
        other @ (LogError::WrongVersion { .. } | LogError::Closed) => other,
    }
}

pub(super) fn io_error(error: io::Error) -> LogError {
    LogError::Io(error.to_string())
}

/// Damage at an event.
pub(super) fn damaged(position: u64, what: &str) -> LogError {
    LogError::Corrupt(format!("event {position}: {what}"))
}

/// What sled says while reading.
pub(super) fn read_error(error: sled::Error) -> LogError {
    match error {
        sled::Error::Io(error) => LogError::Io(said_by(&error)),
        sled::Error::Corruption { .. } => {
            LogError::Corrupt("the checksum of a part of its database does not fit".to_owned())
        }
        sled::Error::CollectionNotFound(_) | sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => {
            LogError::Corrupt(error.to_string())
        }
    }
}

/// What the system said; sled may have wrapped it in the form that is meant for programmers.
pub(super) fn said_by(error: &io::Error) -> String {
    if error.raw_os_error().is_some() { error.to_string() } else { error.kind().to_string() }
}

/// Runs `work` on sled, which answers some damage with a panic, and makes that an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("nothing");
        Err(LogError::Corrupt(format!("the database gave up on it, saying {said:?}")))
    })
}
