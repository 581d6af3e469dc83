//! Passwords of people: how they are set and changed.

use rusqlite::{Connection, params};

use super::hashing::check;
use super::people::{end_sessions, find};
use super::{Accounts, AccountsError, PersonId, secret};

impl Accounts {
    /// Changes the password of a person who knows the old one. All sessions end but that of the secret
    /// `session`, and open invitations.
    ///
    /// # Errors
    /// If the old password is wrong, the new one is not allowed, or there were too many wrong ones.
    pub fn change_password(
        &self,
        id: &PersonId,
        old: &str,
        new: &str,
        session: &str,
        now: u64,
    ) -> Result<(), AccountsError> {
        check(new)?;
        let person = find(&self.connection(), id)?;
        let kept = self::kept(&self.connection(), id)?;
        // A stolen session must not guess the password either.
        let attempt = self.throttle().begin(&person.name, "session", true, now)?;
        let checked = self.passwords().is_right(old, kept.as_deref(), id.as_str());
        if !checked.inspect_err(|_| self.throttle().cancelled(&attempt))? {
            return Err(AccountsError::WrongCredentials);
        }
        self.throttle().succeeded(&attempt);
        let hash = self.passwords().hash(new)?;
        self.change_all(|connection| {
            // Another change in between ended the right to make this one.
            if self::kept(connection, id)? != kept {
                return Err(AccountsError::WrongCredentials);
            }
            set(connection, id, &hash)?;
            connection.execute(
                "DELETE FROM sessions WHERE person = ?1 AND hash <> ?2",
                params![id.as_str(), secret::hash(session)],
            )?;
            Ok(())
        })
    }

    /// Sets the password of a person, such as one who forgot it. All sessions end, and open invitations.
    ///
    /// # Errors
    /// If the person is unknown, or the password is not allowed.
    pub fn set_password(&self, id: &PersonId, password: &str) -> Result<(), AccountsError> {
        check(password)?;
        find(&self.connection(), id)?;
        let hash = self.passwords().hash(password)?;
        self.change_all(|connection| {
            find(connection, id)?;
            end_sessions(connection, id)?;
            set(connection, id, &hash)
        })
    }
}

/// Returns the hash of a person's password.
pub(super) fn kept(connection: &Connection, id: &PersonId) -> Result<Option<String>, AccountsError> {
    let query = "SELECT password FROM people WHERE id = ?1";
    Ok(connection.query_row(query, [id.as_str()], |row| row.get(0))?)
}

/// Sets the hash of a password. Open invitations end: they would set another one.
pub(super) fn set(connection: &Connection, id: &PersonId, hash: &str) -> Result<(), AccountsError> {
    connection.execute("DELETE FROM links WHERE person = ?1 AND kind = 'invitation'", [id.as_str()])?;
    connection.execute(
        "UPDATE people SET password = ?2, revision = revision + 1 WHERE id = ?1",
        params![id.as_str(), hash],
    )?;
    Ok(())
}
