//! Requests that a client repeats without making a change twice.

use rusqlite::{OptionalExtension as _, params};

use super::{Accounts, AccountsError, PersonId};

/// Seconds for which an answer is kept: a day.
const KEPT_SECONDS: u64 = 86_400;
/// Seconds after which a request counts as lost: its process has ended.
const LOST_SECONDS: u64 = 3600;

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

fn owner(person: Option<&PersonId>) -> &str {
    person.map_or("", PersonId::as_str)
}

impl Accounts {
    /// Looks at the key of a request, and takes it if it is new. A key belongs to its caller.
    ///
    /// # Errors
    /// If the database fails.
    pub fn claim(
        &self,
        person: Option<&PersonId>,
        key: &str,
        request: &[u8],
        now: u64,
    ) -> Result<Claim, AccountsError> {
        self.change_all(|connection| {
            connection.execute(
                "DELETE FROM requests WHERE at + ?2 <= ?1 OR (status IS NULL AND at + ?3 <= ?1)",
                params![now, KEPT_SECONDS, LOST_SECONDS],
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
    /// If the database fails.
    pub fn finish(
        &self,
        person: Option<&PersonId>,
        key: &str,
        status: u16,
        body: &[u8],
        content_type: &str,
    ) -> Result<(), AccountsError> {
        self.connection().execute(
            "UPDATE requests SET status = ?3, body = ?4, content_type = ?5 WHERE owner = ?1 AND key = ?2",
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
