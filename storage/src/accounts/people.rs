//! People: their names, roles and states.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

use super::names::{check_name, key};
use super::{Accounts, AccountsError, Role, secret};

/// Maximum number of rows of a page.
pub(super) const PAGE_ROWS_MAX: usize = 1000;
const PREFIX: &str = "p_";
const ID_CHARS: usize = 16;

/// The opaque id of a person, by which events name them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PersonId(String);

impl PersonId {
    fn random() -> Result<Self, AccountsError> {
        Ok(Self(format!("{PREFIX}{}", secret::name()?)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PersonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PersonId {
    type Err = AccountsError;

    fn from_str(text: &str) -> Result<Self, AccountsError> {
        let letters = text.strip_prefix(PREFIX).filter(|letters| letters.len() == ID_CHARS);
        let is_id = letters
            .is_some_and(|letters| letters.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()));
        if is_id { Ok(Self(text.to_owned())) } else { Err(AccountsError::NotFound { what: "person" }) }
    }
}

impl TryFrom<String> for PersonId {
    type Error = AccountsError;

    fn try_from(text: String) -> Result<Self, AccountsError> {
        text.parse()
    }
}

impl From<PersonId> for String {
    fn from(id: PersonId) -> Self {
        id.0
    }
}

/// A person with an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Person {
    /// The opaque id.
    pub id: PersonId,
    /// The name; empty once the person is erased.
    pub name: String,
    /// What the person may do.
    pub role: Role,
    /// Seconds since 1970 UTC.
    pub created_at: u64,
    /// Whether the person may not sign in.
    pub disabled: bool,
    /// Whether the person is erased.
    pub erased: bool,
    /// Whether the person has set a password.
    pub has_password: bool,
    /// Grows with each change.
    pub revision: u64,
}

/// A change of a person. Absent fields stay.
#[derive(Debug, Clone, Default)]
pub struct PersonChange {
    /// A new name.
    pub name: Option<String>,
    /// A new role. Sessions of the person end, and personal links of a new admin.
    pub role: Option<Role>,
    /// Whether the person may not sign in. Sessions of a disabled person end.
    pub disabled: Option<bool>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<String>,
}

const COLUMNS: &str =
    "id, coalesce(name, ''), role, created_at, is_disabled, is_erased, password IS NOT NULL, revision";

/// A row as SQLite has it; [`checked`] makes a person of it.
pub(super) type Raw = (String, String, String, u64, bool, bool, bool, u64);

pub(super) fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
    ))
}

pub(super) fn checked(raw: Raw) -> Result<Person, AccountsError> {
    let (id, name, role, created_at, disabled, erased, has_password, revision) = raw;
    let damaged = || AccountsError::Damaged(format!("the person {id}"));
    let (parsed, role) = (id.parse().map_err(|_| damaged())?, role.parse().map_err(|_| damaged())?);
    Ok(Person { id: parsed, name, role, created_at, disabled, erased, has_password, revision })
}

/// Returns a person who is not erased.
pub(super) fn find(connection: &Connection, id: &PersonId) -> Result<Person, AccountsError> {
    let query = format!("SELECT {COLUMNS} FROM people WHERE id = ?1 AND is_erased = 0");
    let found = connection.query_row(&query, [id.as_str()], raw).optional()?;
    found.map(checked).transpose()?.ok_or(AccountsError::NotFound { what: "person" })
}

/// Returns the person of this name.
pub(super) fn find_named(connection: &Connection, name: &str) -> Result<Option<Person>, AccountsError> {
    let query = format!("SELECT {COLUMNS} FROM people WHERE name_key = ?1");
    let found = connection.query_row(&query, [key(name)], raw).optional()?;
    found.map(checked).transpose()
}

/// Adds a person.
pub(super) fn insert(
    connection: &Connection,
    name: &str,
    role: Role,
    now: u64,
) -> Result<PersonId, AccountsError> {
    let name = check_name(name)?;
    let id = PersonId::random()?;
    let seal_key = secret::random::<32>()?;
    connection
        .execute(
            "INSERT INTO people (id, name, name_key, role, created_at, seal_key) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![id.as_str(), name, key(name), role.name(), now, seal_key],
        )
        .map_err(taken)?;
    Ok(id)
}

fn taken(error: rusqlite::Error) -> AccountsError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => AccountsError::NameTaken,
        _ => error.into(),
    }
}

/// Fails if nobody besides this person could manage people.
pub(super) fn check_other_admin(connection: &Connection, id: &PersonId) -> Result<(), AccountsError> {
    let others: u64 = connection.query_row(
        "SELECT count(*) FROM people WHERE role = 'admin' AND is_disabled = 0 AND is_erased = 0 AND id <> ?1",
        [id.as_str()],
        |row| row.get(0),
    )?;
    if others == 0 { Err(AccountsError::LastAdmin) } else { Ok(()) }
}

/// Ends all sessions of a person.
pub(super) fn end_sessions(connection: &Connection, id: &PersonId) -> Result<(), AccountsError> {
    connection.execute("DELETE FROM sessions WHERE person = ?1", [id.as_str()])?;
    Ok(())
}

impl Accounts {
    /// Adds a person, who has no password yet.
    ///
    /// # Errors
    /// If the name is not allowed or taken, or the database fails.
    pub fn create(&self, name: &str, role: Role, now: u64) -> Result<Person, AccountsError> {
        self.change_all(|connection| {
            let id = insert(connection, name, role, now)?;
            find(connection, &id)
        })
    }

    /// Returns a person who is not erased.
    ///
    /// # Errors
    /// If there is none of this id, or the database fails.
    pub fn person(&self, id: &PersonId) -> Result<Person, AccountsError> {
        find(&self.connection(), id)
    }

    /// Returns the person of a name, in any case.
    ///
    /// # Errors
    /// If there is none, or the database fails.
    pub fn person_named(&self, name: &str) -> Result<Person, AccountsError> {
        find_named(&self.connection(), name)?.ok_or(AccountsError::NotFound { what: "person" })
    }

    /// Returns the names of people. Unknown and erased ones are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub fn names(&self, people: &[PersonId]) -> Result<BTreeMap<PersonId, String>, AccountsError> {
        let connection = self.connection();
        let query = "SELECT name FROM people WHERE id = ?1 AND is_erased = 0";
        let mut statement = connection.prepare_cached(query)?;
        let mut names = BTreeMap::new();
        for id in people {
            if let Some(name) = statement.query_row([id.as_str()], |row| row.get(0)).optional()? {
                names.insert(id.clone(), name);
            }
        }
        Ok(names)
    }

    /// Returns a page of the people who are not erased, by name. A page has 1 to 1000 rows.
    ///
    /// # Errors
    /// If the database fails.
    pub fn people(&self, limit: usize, cursor: Option<&str>) -> Result<Page<Person>, AccountsError> {
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let connection = self.connection();
        let query = format!(
            "SELECT {COLUMNS} FROM people WHERE is_erased = 0 AND name_key > ?1 ORDER BY name_key LIMIT ?2"
        );
        let mut statement = connection.prepare_cached(&query)?;
        let rows = statement.query_map(params![cursor.unwrap_or_default(), limit + 1], raw)?;
        let mut rows: Vec<Person> = rows.map(|row| checked(row?)).collect::<Result<_, _>>()?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|person| key(&person.name));
        Ok(Page { rows, next })
    }

    /// Changes a person. With a revision, only if it is still that of the person.
    ///
    /// # Errors
    /// If the person is unknown, the name is not allowed or taken, the revision is another, or nobody would
    /// be admin.
    pub fn change(
        &self,
        id: &PersonId,
        change: &PersonChange,
        revision: Option<u64>,
    ) -> Result<Person, AccountsError> {
        self.change_all(|connection| {
            let before = find(connection, id)?;
            if revision.is_some_and(|revision| revision != before.revision) {
                return Err(AccountsError::Stale);
            }
            let name = change.name.as_deref().map_or(Ok(before.name.as_str()), check_name)?;
            let (role, disabled) =
                (change.role.unwrap_or(before.role), change.disabled.unwrap_or(before.disabled));
            let was_admin = before.role == Role::Admin && !before.disabled;
            if was_admin && (role != Role::Admin || disabled) {
                check_other_admin(connection, id)?;
            }
            connection
                .execute(
                    "UPDATE people SET name = ?2, name_key = ?3, role = ?4, is_disabled = ?5, \
                     revision = revision + 1 WHERE id = ?1",
                    params![id.as_str(), name, key(name), role.name(), disabled],
                )
                .map_err(taken)?;
            if role != before.role || disabled {
                end_sessions(connection, id)?;
            }
            if role == Role::Admin {
                // An admin signs in with a password: a link that was given away opens no admin session.
                connection
                    .execute("DELETE FROM links WHERE person = ?1 AND kind = 'personal'", [id.as_str()])?;
            }
            find(connection, id)
        })
    }
}
