//! Sign in with a name and a password.

use rusqlite::{OptionalExtension as _, params};

use super::passwords::is_too_long;
use super::people::find_named;
use super::sessions::{IDLE_SECONDS, begin};
use super::{Accounts, AccountsError, Person, PersonId};

/// A person who has just signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The person.
    pub person: Person,
    /// The secret of the session, for the cookie.
    pub secret: String,
    /// The CSRF token, for pages.
    pub csrf: String,
    /// Seconds without a request after which the session ends.
    pub seconds: u64,
}

impl Accounts {
    /// Opens a session for a name and its password. `address` is that of the client.
    ///
    /// Wrong passwords are throttled before they are hashed. An unknown name takes as long as a wrong password.
    ///
    /// # Errors
    /// If the name or the password is wrong, the person is disabled, or there were too many wrong passwords.
    pub fn sign_in(
        &self,
        name: &str,
        password: &str,
        address: &str,
        now: u64,
    ) -> Result<SignedIn, AccountsError> {
        let person = find_named(&self.connection(), name)?.filter(|person| !person.disabled);
        let is_usual = match &person {
            Some(person) => self.is_usual(&person.id, address)?,
            None => false,
        };
        // Long texts would fill the table.
        let name: String = name.chars().take(200).collect();
        let attempt = self.throttle().begin(&name, address, is_usual, now)?;
        let hash: Option<String> = match &person {
            Some(person) => self.connection().query_row(
                "SELECT password FROM people WHERE id = ?1",
                [person.id.as_str()],
                |row| row.get(0),
            )?,
            None => None,
        };
        let is_right = !is_too_long(password) && self.passwords().is_right(password, hash.as_deref());
        let Some(person) = person.filter(|_| is_right) else {
            self.throttle().failed(attempt, now);
            return Err(AccountsError::WrongCredentials);
        };
        self.throttle().succeeded(&attempt);
        self.open_session(person, Some(address), now)
    }

    /// Opens a session of a person who proved who they are.
    pub(super) fn open_session(
        &self,
        person: Person,
        address: Option<&str>,
        now: u64,
    ) -> Result<SignedIn, AccountsError> {
        let (secret, csrf) = self.change_all(|connection| {
            if let Some(address) = address {
                connection.execute(
                    "INSERT INTO addresses (person, address, at) VALUES (?1, ?2, ?3) \
                     ON CONFLICT DO UPDATE SET at = excluded.at",
                    params![person.id.as_str(), address, now],
                )?;
                // The latest few: a person does not sign in from many places.
                connection.execute(
                    "DELETE FROM addresses WHERE person = ?1 AND address NOT IN \
                     (SELECT address FROM addresses WHERE person = ?1 ORDER BY at DESC LIMIT 20)",
                    [person.id.as_str()],
                )?;
            }
            begin(connection, &person.id, now)
        })?;
        Ok(SignedIn { person, secret, csrf, seconds: IDLE_SECONDS })
    }

    fn is_usual(&self, person: &PersonId, address: &str) -> Result<bool, AccountsError> {
        let found: Option<i64> = self
            .connection()
            .query_row(
                "SELECT 1 FROM addresses WHERE person = ?1 AND address = ?2",
                [person.as_str(), address],
                |row| row.get(0),
            )
            .optional()?;
        Ok(found.is_some())
    }
}
