//! Who owns an experiment, and with whom it is shared.

use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::names::check_key;
use super::people::find;
use super::{Accounts, AccountsError, PersonId};

/// What a person may do with an experiment, within their role. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read it.
    Read,
    /// Order it, and send judgements.
    Write,
    /// Share it.
    Owner,
}

impl Access {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Owner => "owner",
        }
    }
}

impl FromStr for Access {
    type Err = AccountsError;

    fn from_str(name: &str) -> Result<Self, AccountsError> {
        let all = [Self::Read, Self::Write, Self::Owner];
        let found = all.into_iter().find(|access| access.name() == name);
        found.ok_or_else(|| AccountsError::bad("access", "use read or write"))
    }
}

/// Maximum number of people with access to an experiment.
const SHARES_MAX: u64 = 1000;

/// A person with access to an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The person.
    pub person: String,
    /// Their name.
    pub name: String,
    /// What they may do.
    pub access: Access,
}

fn put(
    connection: &Connection,
    experiment: &str,
    person: &PersonId,
    access: Access,
) -> Result<(), AccountsError> {
    connection.execute(
        "INSERT INTO shares (experiment, person, access) VALUES (?1, ?2, ?3) \
         ON CONFLICT (experiment, person) DO UPDATE SET access = excluded.access",
        params![experiment, person.as_str(), access.name()],
    )?;
    Ok(())
}

fn access_of(
    connection: &Connection,
    person: &PersonId,
    experiment: &str,
) -> Result<Option<Access>, AccountsError> {
    let found: Option<String> = connection
        .prepare_cached("SELECT access FROM shares WHERE experiment = ?1 AND person = ?2")?
        .query_row([experiment, person.as_str()], |row| row.get(0))
        .optional()?;
    found.map(|access| access.parse()).transpose()
}

impl Accounts {
    /// Sets the owner of an experiment. An earlier owner keeps write access.
    ///
    /// # Errors
    /// If the person is unknown, or the experiment's id is not allowed.
    pub fn set_owner(&self, experiment: &str, person: &PersonId) -> Result<(), AccountsError> {
        check_key("experiment", experiment)?;
        self.change_all(|connection| {
            find(connection, person)?;
            connection.execute(
                "UPDATE shares SET access = 'write' WHERE experiment = ?1 AND access = 'owner'",
                [experiment],
            )?;
            put(connection, experiment, person, Access::Owner)
        })
    }

    /// Shares an experiment with a person, for reading or writing.
    ///
    /// # Errors
    /// If the person is unknown or the owner, or the experiment is shared with 1000 people.
    pub fn share(&self, experiment: &str, person: &PersonId, access: Access) -> Result<(), AccountsError> {
        check_key("experiment", experiment)?;
        if access == Access::Owner {
            return Err(AccountsError::bad("access", "use read or write"));
        }
        self.change_all(|connection| {
            find(connection, person)?;
            if access_of(connection, person, experiment)? == Some(Access::Owner) {
                return Err(AccountsError::Forbidden { reason: "the person owns the experiment" });
            }
            put(connection, experiment, person, access)?;
            let query = "SELECT count(*) FROM shares WHERE experiment = ?1";
            let count: u64 = connection.query_row(query, [experiment], |row| row.get(0))?;
            if count > SHARES_MAX {
                return Err(AccountsError::bad("shares", format!("at most {SHARES_MAX} people")));
            }
            Ok(())
        })
    }

    /// Stops sharing an experiment with a person.
    ///
    /// # Errors
    /// If it is not shared with the person.
    pub fn unshare(&self, experiment: &str, person: &PersonId) -> Result<(), AccountsError> {
        let removed = self.connection().execute(
            "DELETE FROM shares WHERE experiment = ?1 AND person = ?2 AND access <> 'owner'",
            params![experiment, person.as_str()],
        )?;
        if removed == 0 { Err(AccountsError::NotFound { what: "share" }) } else { Ok(()) }
    }

    /// Returns the access of a person to an experiment; `None` if the person may not know of it. Roles do not
    /// count: an admin has access without a share.
    ///
    /// # Errors
    /// If the database fails.
    pub fn access(&self, person: &PersonId, experiment: &str) -> Result<Option<Access>, AccountsError> {
        access_of(&self.connection(), person, experiment)
    }

    /// Returns the experiments that a person may read.
    ///
    /// # Errors
    /// If the database fails.
    pub fn visible(&self, person: &PersonId) -> Result<Vec<String>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached("SELECT experiment FROM shares WHERE person = ?1 ORDER BY experiment")?;
        let rows = statement.query_map([person.as_str()], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Returns the people with access to an experiment, the owner first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn shares(&self, experiment: &str) -> Result<Vec<Share>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT people.id, coalesce(people.name, ''), shares.access FROM shares JOIN people \
             ON people.id = shares.person WHERE experiment = ?1 ORDER BY access = 'owner' DESC, name_key",
        )?;
        let rows = statement
            .query_map([experiment], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))?;
        rows.map(|row| {
            let (person, name, access) = row?;
            Ok(Share { person, name, access: access.parse()? })
        })
        .collect()
    }
}
