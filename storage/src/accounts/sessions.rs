//! Sessions of people who signed in.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::people::find;
use super::{Accounts, AccountsError, Person, PersonId, secret};

/// Seconds without a request after which a session ends: half a day.
pub(super) const IDLE_SECONDS: u64 = 12 * 3600;
/// Seconds after which a session ends in any case: a week.
const SECONDS_MAX: u64 = 7 * 86_400;
/// Maximum number of sessions of a person. Above it, the one that is unused for longest ends.
const SESSIONS_MAX: u32 = 100;
/// Seconds between two notes that a session is used: not each request writes.
const NOTE_SECONDS: u64 = 60;

/// A session in use.
#[derive(Debug, Clone)]
pub struct Session {
    /// The person.
    pub person: Person,
    /// The token that pages send with each change.
    pub csrf: String,
    /// The id of the personal link that opened the session, if one did.
    pub link: Option<String>,
}

impl Session {
    /// Whether this is the session's CSRF token.
    #[must_use]
    pub fn has_csrf(&self, sent: &str) -> bool {
        secret::same(&self.csrf, sent)
    }
}

/// The way in which a session is opened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Opener<'a> {
    /// With a password.
    Password,
    /// With the personal link of this id, which expires at this second.
    Link(&'a str, u64),
}

/// Begins a session. Returns its secret and its CSRF token.
pub(super) fn begin(
    connection: &Connection,
    person: &PersonId,
    opener: Opener<'_>,
    now: u64,
) -> Result<(String, String), AccountsError> {
    let (secret, csrf) = (secret::new()?, secret::new()?);
    let (link, expires_at) = match opener {
        Opener::Password => (None, now + SECONDS_MAX),
        // The session ends with its link.
        Opener::Link(id, expires_at) => (Some(id), expires_at.min(now + SECONDS_MAX)),
    };
    // Ended ones of everybody go.
    connection.execute(
        "DELETE FROM sessions WHERE expires_at <= ?1 OR used_at + ?2 <= ?1",
        params![now, IDLE_SECONDS],
    )?;
    connection.execute(
        "INSERT INTO sessions (hash, person, csrf, used_at, expires_at, link) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![secret::hash(&secret), person.as_str(), csrf, now, expires_at, link],
    )?;
    connection.execute(
        "DELETE FROM sessions WHERE person = ?1 AND hash NOT IN \
         (SELECT hash FROM sessions WHERE person = ?1 ORDER BY used_at DESC, rowid DESC LIMIT ?2)",
        params![person.as_str(), SESSIONS_MAX],
    )?;
    Ok((secret, csrf))
}

impl Accounts {
    /// Returns the session of a secret.
    ///
    /// # Errors
    /// If it is unknown or has ended, or its person is disabled.
    pub fn session(&self, secret: &str, now: u64) -> Result<Session, AccountsError> {
        let hash = secret::hash(secret);
        let connection = self.connection();
        let found: Option<(String, String, u64, u64, Option<String>)> = connection
            .prepare_cached("SELECT person, csrf, used_at, expires_at, link FROM sessions WHERE hash = ?1")?
            .query_row([&hash], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .optional()?;
        let (person, csrf, used_at, expires_at, link) = found.ok_or(AccountsError::Ended)?;
        if now >= expires_at || now >= used_at + IDLE_SECONDS {
            return Err(AccountsError::Ended);
        }
        let person = find(&connection, &person.parse()?)?;
        if person.disabled {
            return Err(AccountsError::Ended);
        }
        if now >= used_at + NOTE_SECONDS {
            connection.execute("UPDATE sessions SET used_at = ?2 WHERE hash = ?1", params![hash, now])?;
        }
        Ok(Session { person, csrf, link })
    }

    /// Ends a session. An unknown one is no error.
    ///
    /// # Errors
    /// If the database fails.
    pub fn sign_out(&self, secret: &str) -> Result<(), AccountsError> {
        self.connection().execute("DELETE FROM sessions WHERE hash = ?1", [secret::hash(secret)])?;
        Ok(())
    }

    /// Ends all sessions of a person. Returns their number.
    ///
    /// # Errors
    /// If the database fails.
    pub fn sign_out_everywhere(&self, person: &PersonId) -> Result<usize, AccountsError> {
        Ok(self.connection().execute("DELETE FROM sessions WHERE person = ?1", [person.as_str()])?)
    }
}
