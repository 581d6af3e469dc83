//! The wall clock. Only this module reads it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970 UTC. For people to read: no rule uses it.
#[must_use]
pub fn now_us() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    let now = SystemTime::now();
    let elapsed = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}
