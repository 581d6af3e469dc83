//! Errors of the accounts.

/// An error of the accounts, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// There is no such person, link, token or subscription.
    #[error("unknown {what}")]
    NotFound {
        /// The missing thing.
        what: &'static str,
    },
    /// Another person has the name.
    #[error("the name is taken: choose another one")]
    NameTaken,
    /// No admin would be left.
    #[error("this is the last admin: make another person admin first")]
    LastAdmin,
    /// The name or the password is wrong.
    #[error("the name or the password is wrong")]
    WrongCredentials,
    /// Too many attempts, or too many at the same time.
    #[error("too many attempts: wait {retry_after_seconds} s")]
    Throttled {
        /// Seconds until the next attempt is accepted.
        retry_after_seconds: u64,
    },
    /// The session, token, link or invitation is unknown, expired, used or revoked.
    #[error("the secret is unknown, expired, used or revoked: sign in again, or ask for a new one")]
    Ended,
    /// The person may not have this.
    #[error("{reason}")]
    Forbidden {
        /// The rule.
        reason: &'static str,
    },
    /// Another caller changed the person since the revision.
    #[error("the person was changed since this revision: read the person again")]
    Stale,
    /// A value is not allowed.
    #[error("{field}: {reason}")]
    BadInput {
        /// The field.
        field: &'static str,
        /// The allowed values.
        reason: String,
    },
    /// A later version of the program wrote the database.
    #[error("accounts of version {found}: this program reads up to version {known}; use the newer program")]
    NewerVersion {
        /// The version of the database.
        found: i64,
        /// The last version that this program knows.
        known: i64,
    },
    /// The person is erased, but another process keeps old bytes of the database in use.
    #[error("the person is erased, but the files still hold old bytes: restart the server to remove them")]
    NotWiped,
    /// A file beside the database cannot be read or written.
    #[error("failed to {what}")]
    Io {
        /// The operation and its file.
        what: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A stored value is damaged.
    #[error("the accounts are damaged: {0}")]
    Damaged(String),
    /// SQLite failed.
    #[error("the database of accounts failed")]
    Sqlite(#[from] rusqlite::Error),
}

impl AccountsError {
    pub(super) fn bad(field: &'static str, reason: impl Into<String>) -> Self {
        Self::BadInput { field, reason: reason.into() }
    }

    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
