//! Sign in with a name and a password.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::address::network;
use super::passwords::kept;
use super::people::{find, find_named};
use super::sessions::{IDLE_SECONDS, Opener, begin};
use super::{Accounts, AccountsError, Person, PersonId};

/// Addresses that are kept of a person.
const ADDRESSES_MAX: u32 = 20;

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
    /// Wrong passwords are throttled before they are hashed. An unknown name takes as long as a wrong
    /// password.
    ///
    /// # Errors
    /// If the name or the password is wrong, the person is disabled, or there were too many attempts.
    pub fn sign_in(
        &self,
        name: &str,
        password: &str,
        address: &str,
        now: u64,
    ) -> Result<SignedIn, AccountsError> {
        let network = network(address);
        let (person, hash, is_usual) = {
            let connection = self.connection();
            let person = find_named(&connection, name)?.filter(|person| !person.disabled);
            match person {
                Some(person) => {
                    let (hash, is_usual) =
                        (kept(&connection, &person.id)?, is_usual(&connection, &person.id, &network)?);
                    (Some(person), hash, is_usual)
                }
                None => (None, None, false),
            }
        };
        let attempt = self.throttle().begin(name, &network, is_usual, now)?;
        let checked = self.passwords().is_right(password, hash.as_deref(), &network);
        let is_right = checked.inspect_err(|_| self.throttle().cancelled(&attempt))?;
        let person = person.filter(|_| is_right).ok_or(AccountsError::WrongCredentials)?;
        self.throttle().succeeded(&attempt);
        self.change_all(|connection| {
            // The person may have changed while the password was hashed.
            let is_same = kept(connection, &person.id)? == hash;
            let person = find(connection, &person.id).ok().filter(|person| is_same && !person.disabled);
            let person = person.ok_or(AccountsError::WrongCredentials)?;
            note_address(connection, &person.id, &network, now)?;
            signed_in(connection, person, Opener::Password, now)
        })
    }
}

/// Opens a session of a person who proved who they are.
pub(super) fn signed_in(
    connection: &Connection,
    person: Person,
    opener: Opener<'_>,
    now: u64,
) -> Result<SignedIn, AccountsError> {
    let (secret, csrf) = begin(connection, &person.id, opener, now)?;
    Ok(SignedIn { person, secret, csrf, seconds: IDLE_SECONDS })
}

/// Whether a person signed in from a network before.
fn is_usual(connection: &Connection, person: &PersonId, network: &str) -> Result<bool, AccountsError> {
    let query = "SELECT 1 FROM addresses WHERE person = ?1 AND address = ?2";
    let found: Option<i64> =
        connection.query_row(query, [person.as_str(), network], |row| row.get(0)).optional()?;
    Ok(found.is_some())
}

/// Notes the network from which a person signed in. The latest ones are kept.
fn note_address(
    connection: &Connection,
    person: &PersonId,
    network: &str,
    now: u64,
) -> Result<(), AccountsError> {
    connection.execute(
        "INSERT INTO addresses (person, address, at) VALUES (?1, ?2, ?3) \
         ON CONFLICT DO UPDATE SET at = excluded.at",
        params![person.as_str(), network, now],
    )?;
    connection.execute(
        "DELETE FROM addresses WHERE person = ?1 AND address NOT IN \
         (SELECT address FROM addresses WHERE person = ?1 ORDER BY at DESC LIMIT ?2)",
        params![person.as_str(), ADDRESSES_MAX],
    )?;
    Ok(())
}
