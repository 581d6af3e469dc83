//! Requests that a client repeats without making a change twice.

use rusqlite::{OptionalExtension as _, params};

use super::names::check_key;
use super::{Accounts, AccountsError, PersonId};

/// Seconds for which an answer is kept: a day.
const KEPT_SECONDS: i64 = 86_400;
/// Seconds after which a request counts as lost: its process has ended.
const LOST_SECONDS: i64 = 3600;
/// Largest body of a kept answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Maximum number of keys of a caller within a day.
const KEYS_MAX: u64 = 10_000;

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: make the change, then [`finish`](Accounts::finish) or [`abandon`](Accounts::abandon) it.
    New,
    /// It is in progress.
    InFlight,
    /// Its answer.
    Done {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: Vec<u8>,
        /// The type of the body.
        content_type: String,
    },
    /// Another request had this key.
    Mismatch,
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn owner(person: Option<&PersonId>) -> &str {
    person.map_or("", PersonId::as_str)
}

impl Accounts {
    /// Looks up the key of a request, and takes it if it is new. A key belongs to its caller. `request` is a
    /// hash of method, path and body.
    ///
    /// # Errors
    /// If the key is empty or too long, the caller has too many keys, or the database fails.
    pub fn claim(
        &self,
        person: Option<&PersonId>,
        key: &str,
        request: &[u8],
        now: u64,
    ) -> Result<Claim, AccountsError> {
        check_key("key", key)?;
        self.change_all(|connection| {
            connection.execute(
                "DELETE FROM requests WHERE at <= ?1 OR (at <= ?2 AND status IS NULL)",
                params![signed(now) - KEPT_SECONDS, signed(now) - LOST_SECONDS],
            )?;
            let found = connection
                .query_row(
                    "SELECT request, status, body, content_type FROM requests WHERE owner = ?1 AND key = ?2",
                    params![owner(person), key],
                    |row| {
                        let (request, status): (Vec<u8>, Option<u16>) = (row.get(0)?, row.get(1)?);
                        let (body, kind): (Option<Vec<u8>>, Option<String>) = (row.get(2)?, row.get(3)?);
                        Ok((request, status, body, kind))
                    },
                )
                .optional()?;
            match found {
                None => {
                    let query = "SELECT count(*) FROM requests WHERE owner = ?1";
                    let count: u64 = connection.query_row(query, [owner(person)], |row| row.get(0))?;
                    if count >= KEYS_MAX {
                        return Err(AccountsError::Throttled { retry_after_seconds: 3600 });
                    }
                    connection.execute(
                        "INSERT INTO requests (owner, key, request, at) VALUES (?1, ?2, ?3, ?4)",
                        params![owner(person), key, request, now],
                    )?;
                    Ok(Claim::New)
                }
                Some((known, ..)) if known != request => Ok(Claim::Mismatch),
                Some((_, None, ..)) => Ok(Claim::InFlight),
                Some((_, Some(status), body, kind)) => Ok(Claim::Done {
                    status,
                    body: body.unwrap_or_default(),
                    content_type: kind.unwrap_or_default(),
                }),
            }
        })
    }

    /// Keeps the answer to a claimed request.
    ///
    /// # Errors
    /// If the body has more than [`ANSWER_BYTES_MAX`] bytes, or the database fails. The claim stays.
    pub fn finish(
        &self,
        person: Option<&PersonId>,
        key: &str,
        status: u16,
        body: &[u8],
        content_type: &str,
    ) -> Result<(), AccountsError> {
        if body.len() > ANSWER_BYTES_MAX {
            return Err(AccountsError::bad("body", format!("use at most {ANSWER_BYTES_MAX} bytes")));
        }
        self.connection().execute(
            "UPDATE requests SET status = ?3, body = ?4, content_type = ?5 WHERE owner = ?1 AND key = ?2 \
             AND status IS NULL",
            params![owner(person), key, status, body, content_type],
        )?;
        Ok(())
    }

    /// Gives the key of a request back that changed nothing.
    ///
    /// # Errors
    /// If the database fails.
    pub fn abandon(&self, person: Option<&PersonId>, key: &str) -> Result<(), AccountsError> {
        self.connection().execute(
            "DELETE FROM requests WHERE owner = ?1 AND key = ?2 AND status IS NULL",
            params![owner(person), key],
        )?;
        Ok(())
    }
}
