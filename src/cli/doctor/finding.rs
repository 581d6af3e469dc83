//! The result of one check.

use serde::Serialize;

/// Result of one check.
#[derive(Serialize)]
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) ok: bool,
    pub(super) found: String,
}

impl Finding {
    /// The finding of a check that succeeds with a description, or fails with a reason.
    pub(super) fn of(what: &'static str, outcome: anyhow::Result<String>) -> Self {
        let ok = outcome.is_ok();
        Self { what, ok, found: outcome.unwrap_or_else(|error| format!("{error:#}")) }
    }
}
