//! Durable storage: the event log on sled ([`SledLog`]), the log in memory ([`MemoryLog`]), and
//! content-addressed files ([`ArtifactStore`]). Export and import of a log are in [`transfer`]. People have
//! their [`accounts`] in a database of SQLite.

pub mod accounts;
mod artifact;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod limits;
mod memory;
mod modes;
#[cfg(test)]
#[path = "../../tests/support/random.rs"]
mod random;
#[cfg(all(test, feature = "s3"))]
#[path = "../../tests/support/required.rs"]
mod required;
mod sled_log;
mod snapshots;
pub mod transfer;
mod wait;

pub use artifact::{ArtifactId, ArtifactStore, InvalidArtifactName, SharedStore};
pub use error::StorageError;
pub use limits::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX, BODY_BYTES_MAX, CURSOR_BYTES_MAX};
pub use memory::MemoryLog;
pub use sled_log::{
    EventView, Finding, LogStat, Salvage, SledLog, SledOptions, UNFINISHED_BACKUP, VerifyReport,
};
pub use snapshots::{ResumeError, SNAPSHOT_EVENTS, Snapshots};
pub use wait::wait;
