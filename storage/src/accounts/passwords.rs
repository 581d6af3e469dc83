//! Passwords: argon2id, on a bounded number of threads.

use std::sync::{Condvar, Mutex, PoisonError};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use rusqlite::params;

use super::people::{end_sessions, find};
use super::{Accounts, AccountsError, PersonId, secret};

/// Shortest and longest password, in bytes.
const BYTES_MIN: usize = 10;
const BYTES_MAX: usize = 1024;
/// Memory, in KiB, and passes of a hash: the first recommendation of OWASP.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
/// Hashes at the same time: each takes a core.
const HASHES_MAX: usize = 2;

/// Makes and checks hashes of passwords.
pub(super) struct Passwords {
    argon2: Argon2<'static>,
    /// A hash of no password, checked where there is none: an unknown name takes as long as a known one.
    nobody: String,
    running: Mutex<usize>,
    ended: Condvar,
}

/// A turn to hash, which ends when it is dropped.
struct Turn<'a>(&'a Passwords);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_one();
    }
}

impl Passwords {
    pub(super) fn new() -> Result<Self, AccountsError> {
        let broken = |error: argon2::Error| AccountsError::Damaged(error.to_string());
        let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(broken)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut passwords =
            Self { argon2, nobody: String::new(), running: Mutex::default(), ended: Condvar::new() };
        passwords.nobody = passwords.hash(&secret::new()?)?;
        Ok(passwords)
    }

    fn turn(&self) -> Turn<'_> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.ended.wait_while(running, |running| *running >= HASHES_MAX);
        *wait.unwrap_or_else(PoisonError::into_inner) += 1;
        Turn(self)
    }

    /// Returns the hash of a password, as a PHC string.
    pub(super) fn hash(&self, password: &str) -> Result<String, AccountsError> {
        let _turn = self.turn();
        let salt = secret::random::<16>()?;
        let hashed: Result<PasswordHash, _> =
            self.argon2.hash_password_with_salt(password.as_bytes(), &salt);
        hashed.map(|hash| hash.to_string()).map_err(|error| AccountsError::Damaged(error.to_string()))
    }

    /// Whether this is the password of a hash. Without a hash it is not, which takes as long.
    pub(super) fn is_right(&self, password: &str, hash: Option<&str>) -> bool {
        let _turn = self.turn();
        let expected = hash.unwrap_or(&self.nobody);
        let parsed = PasswordHash::new(expected);
        let is_right =
            parsed.is_ok_and(|parsed| self.argon2.verify_password(password.as_bytes(), &parsed).is_ok());
        is_right && hash.is_some()
    }
}

/// Checks that a password may be set.
pub(super) fn check(password: &str) -> Result<(), AccountsError> {
    if (BYTES_MIN..=BYTES_MAX).contains(&password.len()) {
        Ok(())
    } else {
        Err(AccountsError::bad("password", format!("use {BYTES_MIN} to {BYTES_MAX} bytes")))
    }
}

impl Accounts {
    /// Changes the password of a person who knows the old one. All sessions but this one end.
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
        // A stolen session must not guess the password either.
        let attempt = self.throttle().begin(&person.name, "session", true, now)?;
        let kept: Option<String> = self.connection().query_row(
            "SELECT password FROM people WHERE id = ?1",
            [id.as_str()],
            |row| row.get(0),
        )?;
        if old.len() > BYTES_MAX || !self.passwords().is_right(old, kept.as_deref()) {
            self.throttle().failed(attempt, now);
            return Err(AccountsError::WrongCredentials);
        }
        self.throttle().succeeded(&attempt);
        let hash = self.passwords().hash(new)?;
        self.change_all(|connection| {
            set(connection, id, &hash)?;
            connection.execute(
                "DELETE FROM sessions WHERE person = ?1 AND hash <> ?2",
                params![id.as_str(), secret::hash(session)],
            )?;
            Ok(())
        })
    }

    /// Sets the password of a person, such as one who forgot it. All sessions end.
    ///
    /// # Errors
    /// If the person is unknown, or the password is not allowed.
    pub fn set_password(&self, id: &PersonId, password: &str) -> Result<(), AccountsError> {
        check(password)?;
        let hash = self.passwords().hash(password)?;
        self.change_all(|connection| {
            find(connection, id)?;
            end_sessions(connection, id)?;
            set(connection, id, &hash)
        })
    }
}

/// Sets the hash of a password.
pub(super) fn set(connection: &rusqlite::Connection, id: &PersonId, hash: &str) -> Result<(), AccountsError> {
    connection.execute(
        "UPDATE people SET password = ?2, revision = revision + 1 WHERE id = ?1",
        params![id.as_str(), hash],
    )?;
    Ok(())
}

/// Whether a text is too long to be a password.
pub(super) fn is_too_long(password: &str) -> bool {
    password.len() > BYTES_MAX
}
