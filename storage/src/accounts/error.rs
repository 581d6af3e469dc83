//! Why the accounts refuse something.

/// Why the accounts refuse something, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// There is no such person, link, token or subscription.
    #[error("unknown {what}")]
    NotFound {
        /// What is missing.
        what: &'static str,
    },
    /// Another person has the name.
    #[error("the name is taken: choose another one")]
    NameTaken,
    /// Nobody would be left who may manage people.
    #[error("this is the last admin: make another person admin first")]
    LastAdmin,
    /// The name or the password is wrong.
    #[error("the name or the password is wrong")]
    WrongCredentials,
    /// Too many wrong passwords.
    #[error("too many wrong passwords: wait {retry_after_seconds} s")]
    Throttled {
        /// Seconds until the next attempt is looked at.
        retry_after_seconds: u64,
    },
    /// The session, token, link or invitation is unknown, expired, used or revoked.
    #[error("it is unknown, expired, used or revoked")]
    Ended,
    /// The person may not have this.
    #[error("{reason}")]
    Forbidden {
        /// Why not.
        reason: &'static str,
    },
    /// Somebody changed it since it was read.
    #[error("it was changed in between: read it again")]
    Stale,
    /// A value is not allowed.
    #[error("{field}: {reason}")]
    BadInput {
        /// The field.
        field: &'static str,
        /// What is allowed.
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
    /// A file beside the database cannot be read or written.
    #[error("failed to {what}")]
    Io {
        /// What failed.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A stored value is damaged.
    #[error("the accounts are damaged: {0}")]
    Damaged(String),
    /// The database fails.
    #[error("the database of accounts fails")]
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
