//! The identity of a server, and of the server that serves a prefix.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of the names and messages that server and workers share.
pub const PROTOCOL: u32 = 2;

/// The identity of a server process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Id of the installation, kept in its data folder.
    pub installation: String,
    /// Name of the host.
    pub host: String,
    /// Id of the process.
    pub process: u32,
    /// Version of the program.
    pub version: String,
    /// Start of the process, in microseconds since 1970.
    pub since_us: u64,
}

/// The server that serves a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Id of its installation.
    pub installation: String,
    /// Name of its host.
    pub host: String,
    /// Id of its process.
    pub process: u32,
    /// Start of its process, in microseconds since 1970.
    pub since_us: u64,
    /// Number of the start under this prefix: each change of the server adds 1.
    pub start: u64,
    /// Its version of the protocol.
    pub protocol: u32,
    /// Version of its program.
    pub version: String,
}

impl Holder {
    pub(super) fn new(identity: &ServerIdentity, start: u64) -> Self {
        Self {
            installation: identity.installation.clone(),
            host: identity.host.clone(),
            process: identity.process,
            since_us: identity.since_us,
            start,
            protocol: PROTOCOL,
            version: identity.version.clone(),
        }
    }

    /// Returns a server whose record cannot be read.
    pub(super) fn unknown() -> Self {
        let (installation, host, version) = (String::new(), "an unknown host".to_owned(), String::new());
        Self { installation, host, process: 0, since_us: 0, start: 0, protocol: PROTOCOL, version }
    }

    /// Whether the record is of this process.
    pub(super) fn is(&self, identity: &ServerIdentity) -> bool {
        self.installation == identity.installation
            && self.host == identity.host
            && self.process == identity.process
            && self.since_us == identity.since_us
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, process {}, since {}", self.host, self.process, Utc(self.since_us / 1_000_000))
    }
}

/// A time in seconds since 1970.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, second) = (self.0 / 86_400, self.0 % 86_400);
        let is_leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut year = 1970;
        while days >= if is_leap(year) { 366 } else { 365 } {
            days -= if is_leap(year) { 366 } else { 365 };
            year += 1;
        }
        let february = if is_leap(year) { 29 } else { 28 };
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", days + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_described_by_host_process_and_time() {
        let holder = Holder { process: 7, since_us: 1_709_210_096_000_000, ..Holder::unknown() };
        assert_eq!(holder.to_string(), "an unknown host, process 7, since 2024-02-29 12:34:56 UTC");
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_868_799, "2000-02-29 23:59:59 UTC"),
            (4_102_444_799, "2099-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
        }
    }
}
