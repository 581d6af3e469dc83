//! Who owns an experiment, and with whom it is shared.

use std::str::FromStr;

use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

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

impl Accounts {
    /// Notes who owns a new experiment.
    ///
    /// # Errors
    /// If the person is unknown.
    pub fn set_owner(&self, experiment: &str, person: &PersonId) -> Result<(), AccountsError> {
        self.put_share(experiment, person, Access::Owner)
    }

    /// Shares an experiment with a person, for reading or writing.
    ///
    /// # Errors
    /// If the person is unknown or the owner.
    pub fn share(&self, experiment: &str, person: &PersonId, access: Access) -> Result<(), AccountsError> {
        if access == Access::Owner {
            return Err(AccountsError::bad("access", "use read or write"));
        }
        if self.access(person, experiment)? == Some(Access::Owner) {
            return Err(AccountsError::Forbidden { reason: "the person owns the experiment" });
        }
        self.put_share(experiment, person, access)
    }

    fn put_share(&self, experiment: &str, person: &PersonId, access: Access) -> Result<(), AccountsError> {
        self.change_all(|connection| {
            find(connection, person)?;
            connection.execute(
                "INSERT INTO shares (experiment, person, access) VALUES (?1, ?2, ?3) \
                 ON CONFLICT DO UPDATE SET access = excluded.access",
                params![experiment, person.as_str(), access.name()],
            )?;
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

    /// Returns what a person may do with an experiment; `None`: not even know of it.
    ///
    /// # Errors
    /// If the database fails.
    pub fn access(&self, person: &PersonId, experiment: &str) -> Result<Option<Access>, AccountsError> {
        let connection = self.connection();
        let found: Option<String> = connection
            .prepare_cached("SELECT access FROM shares WHERE experiment = ?1 AND person = ?2")?
            .query_row([experiment, person.as_str()], |row| row.get(0))
            .optional()?;
        found.map(|access| access.parse()).transpose()
    }

    /// Returns the experiments that a person may read.
    ///
    /// # Errors
    /// If the database fails.
    pub fn visible(&self, person: &PersonId) -> Result<Vec<String>, AccountsError> {
        let connection = self.connection();
        let mut statement =
            connection.prepare_cached("SELECT experiment FROM shares WHERE person = ?1 ORDER BY experiment")?;
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
        let rows = statement.query_map([experiment], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?))
        })?;
        rows.map(|row| {
            let (person, name, access) = row?;
            Ok(Share { person, name, access: access.parse()? })
        })
        .collect()
    }
}
