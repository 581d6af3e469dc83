//! Links with a secret: personal ones open sessions, invitations set a password, and one makes the first
//! admin.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::people::{self, find};
use super::sessions::Opener;
use super::sign_in::signed_in;
use super::{Accounts, AccountsError, Person, PersonId, Role, SignedIn, hashing, passwords, secret};

/// Longest life of a link, in seconds.
const SECONDS_MAX: u64 = 366 * 86_400;
/// Life of the first admin's link, in seconds.
const FIRST_ADMIN_SECONDS: u64 = 86_400;

/// Maximum number of personal links of a person.
const LINKS_MAX: u64 = 100;

const PERSONAL: &str = "personal";
const INVITATION: &str = "invitation";
const FIRST_ADMIN: &str = "first_admin";

/// A personal link, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Names the link.
    pub id: String,
    /// Seconds since 1970 UTC.
    pub created_at: u64,
    /// Seconds since 1970 UTC.
    pub expires_at: u64,
}

/// A link that was just made.
#[derive(Debug, Clone)]
pub struct NewLink {
    /// Names the link.
    pub id: String,
    /// The secret, shown once.
    pub secret: String,
}

fn check_life(until: u64, now: u64) -> Result<(), AccountsError> {
    if until > now && until <= now + SECONDS_MAX {
        Ok(())
    } else {
        Err(AccountsError::bad("expires_at", "use a time within 366 days"))
    }
}

fn insert(
    connection: &Connection,
    kind: &str,
    person: Option<&PersonId>,
    until: u64,
    now: u64,
) -> Result<NewLink, AccountsError> {
    let link = NewLink { id: secret::name()?, secret: secret::new()? };
    connection.execute("DELETE FROM links WHERE expires_at <= ?1", [now])?;
    connection.execute(
        "INSERT INTO links (id, hash, kind, person, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![link.id, secret::hash(&link.secret), kind, person.map(PersonId::as_str), now, until],
    )?;
    Ok(link)
}

/// A link that a secret opens.
struct Opened {
    id: String,
    kind: String,
    person: Option<PersonId>,
    expires_at: u64,
}

fn open(connection: &Connection, secret: &str, now: u64) -> Result<Opened, AccountsError> {
    let found: Option<(String, String, Option<String>, u64)> = connection
        .query_row(
            "SELECT id, kind, person, expires_at FROM links WHERE hash = ?1 AND expires_at > ?2",
            params![secret::hash(secret), now],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .optional()?;
    let (id, kind, person, expires_at) = found.ok_or(AccountsError::Ended)?;
    let person = person.map(|person| person.parse()).transpose()?;
    Ok(Opened { id, kind, person, expires_at })
}

/// Returns the personal link of a secret, with its person.
fn open_personal(connection: &Connection, secret: &str, now: u64) -> Result<(Opened, Person), AccountsError> {
    let opened = open(connection, secret, now)?;
    let id = opened.person.as_ref().filter(|_| opened.kind == PERSONAL).ok_or(AccountsError::Ended)?;
    let person = find(connection, id)?;
    if person.disabled || person.role == Role::Admin {
        return Err(AccountsError::Ended);
    }
    Ok((opened, person))
}

impl Accounts {
    /// Makes a personal link, which opens sessions without a password until it expires or is revoked.
    ///
    /// # Errors
    /// If the person is unknown or an admin or has too many links, or the time is not allowed.
    pub fn create_link(&self, person: &PersonId, until: u64, now: u64) -> Result<NewLink, AccountsError> {
        check_life(until, now)?;
        self.change_all(|connection| {
            if find(connection, person)?.role == Role::Admin {
                return Err(AccountsError::Forbidden { reason: "an admin signs in with a password" });
            }
            let link = insert(connection, PERSONAL, Some(person), until, now)?;
            let count: u64 = connection.query_row(
                "SELECT count(*) FROM links WHERE person = ?1 AND kind = 'personal'",
                [person.as_str()],
                |row| row.get(0),
            )?;
            if count > LINKS_MAX {
                return Err(AccountsError::bad("links", format!("at most {LINKS_MAX}: revoke others first")));
            }
            Ok(link)
        })
    }

    /// Returns the personal links of a person, the latest first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn links(&self, person: &PersonId) -> Result<Vec<Link>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, created_at, expires_at FROM links WHERE person = ?1 AND kind = 'personal' \
             ORDER BY created_at DESC, id",
        )?;
        let rows = statement.query_map([person.as_str()], |row| {
            Ok(Link { id: row.get(0)?, created_at: row.get(1)?, expires_at: row.get(2)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Revokes a personal link. Sessions that it opened end.
    ///
    /// # Errors
    /// If there is none.
    pub fn revoke_link(&self, id: &str) -> Result<(), AccountsError> {
        let query = "DELETE FROM links WHERE id = ?1 AND kind = 'personal'";
        let revoked = self.connection().execute(query, [id])?;
        if revoked == 0 { Err(AccountsError::NotFound { what: "link" }) } else { Ok(()) }
    }

    /// Returns the person of the personal link of this id, such as to check who may revoke it.
    ///
    /// # Errors
    /// If there is none, or the database fails.
    pub fn person_of_link(&self, id: &str) -> Result<Person, AccountsError> {
        let connection = self.connection();
        let query = "SELECT person FROM links WHERE id = ?1 AND kind = 'personal'";
        let found: Option<String> = connection.query_row(query, [id], |row| row.get(0)).optional()?;
        find(&connection, &found.ok_or(AccountsError::NotFound { what: "link" })?.parse()?)
    }

    /// Returns the person of the secret of a personal link, and opens no session.
    ///
    /// # Errors
    /// If the link is unknown, expired or revoked, or its person is disabled or an admin.
    pub fn link(&self, secret: &str, now: u64) -> Result<Person, AccountsError> {
        open_personal(&self.connection(), secret, now).map(|(_, person)| person)
    }

    /// Opens a session with a personal link. It ends with the link.
    ///
    /// # Errors
    /// If the link is unknown, expired or revoked, or its person is disabled or an admin.
    pub fn open_link(&self, secret: &str, now: u64) -> Result<SignedIn, AccountsError> {
        self.change_all(|connection| {
            let (link, person) = open_personal(connection, secret, now)?;
            signed_in(connection, person, Opener::Link(&link.id, link.expires_at), now)
        })
    }

    /// Makes an invitation, with which a person sets a password once. An earlier one ends.
    ///
    /// # Errors
    /// If the person is unknown, or the time is not allowed.
    pub fn invite(&self, person: &PersonId, until: u64, now: u64) -> Result<String, AccountsError> {
        check_life(until, now)?;
        self.change_all(|connection| {
            find(connection, person)?;
            connection
                .execute("DELETE FROM links WHERE person = ?1 AND kind = 'invitation'", [person.as_str()])?;
            Ok(insert(connection, INVITATION, Some(person), until, now)?.secret)
        })
    }

    /// Makes the link with which the first admin sets a name and a password; `None` if an admin has a
    /// password. An earlier link ends.
    ///
    /// # Errors
    /// If the database fails.
    pub fn first_admin_link(&self, now: u64) -> Result<Option<String>, AccountsError> {
        self.change_all(|connection| {
            connection.execute("DELETE FROM links WHERE kind = 'first_admin'", [])?;
            if has_admin(connection)? {
                return Ok(None);
            }
            Ok(Some(insert(connection, FIRST_ADMIN, None, now + FIRST_ADMIN_SECONDS, now)?.secret))
        })
    }

    /// Sets a password by an invitation, which ends, and opens a session. With the link of the first admin,
    /// adds an admin of this name.
    ///
    /// # Errors
    /// If the invitation is unknown, used or expired, or the name or the password is not allowed.
    pub fn redeem(
        &self,
        secret: &str,
        name: Option<&str>,
        password: &str,
        now: u64,
    ) -> Result<SignedIn, AccountsError> {
        hashing::check(password)?;
        // Hashed only for a secret that is right, and not while the database is in use.
        let is_usable = open(&self.connection(), secret, now)?.kind != PERSONAL;
        if !is_usable {
            return Err(AccountsError::Ended);
        }
        let hash = self.passwords().hash(password)?;
        self.change_all(|connection| {
            let opened = open(connection, secret, now)?;
            let id = match (opened.kind.as_str(), opened.person) {
                (INVITATION, Some(person)) => person,
                (FIRST_ADMIN, None) if !has_admin(connection)? => {
                    let name = name.ok_or_else(|| AccountsError::bad("name", "the first admin needs one"))?;
                    people::insert(connection, name, Role::Admin, now)?
                }
                _ => return Err(AccountsError::Ended),
            };
            connection.execute("DELETE FROM links WHERE id = ?1", [opened.id])?;
            people::end_sessions(connection, &id)?;
            passwords::set(connection, &id, &hash)?;
            let person = find(connection, &id)?;
            if person.disabled {
                return Err(AccountsError::Ended);
            }
            signed_in(connection, person, Opener::Password, now)
        })
    }

    /// Ends the invitation of a person. Without one, nothing happens.
    ///
    /// # Errors
    /// If the database fails.
    pub fn revoke_invitation(&self, person: &PersonId) -> Result<(), AccountsError> {
        let query = "DELETE FROM links WHERE person = ?1 AND kind = 'invitation'";
        self.connection().execute(query, [person.as_str()])?;
        Ok(())
    }
}

fn has_admin(connection: &Connection) -> Result<bool, AccountsError> {
    Ok(connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM people WHERE role = 'admin' AND is_erased = 0 AND is_disabled = 0 \
         AND password IS NOT NULL)",
        [],
        |row| row.get(0),
    )?)
}
