//! Erasure of people: their name, secrets and comments go, and their verdicts stay without a name.
//!
//! A list beside the database names the erased ids. It is written first, so that a restored older database erases
//! them again.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::people::{check_other_admin, find};
use super::{Accounts, AccountsError, PersonId, Role};

/// The name of the list, beside the database: an id on each line.
pub(super) const LIST: &str = "erased-people";

impl Accounts {
    /// Erases a person: name, password, sessions, tokens, links, shares, subscriptions, their lines in the audit
    /// trail, and the key of their comments. The id stays known as erased. This cannot be undone.
    ///
    /// # Errors
    /// If the person is unknown or the last admin, or the list or the database cannot be written.
    pub fn erase(&self, person: &PersonId) -> Result<(), AccountsError> {
        {
            let connection = self.connection();
            let found = find(&connection, person)?;
            if found.role == Role::Admin && !found.disabled {
                check_other_admin(&connection, person)?;
            }
        }
        append(&self.list(), person)?;
        self.change_all(|connection| wipe(connection, person.as_str()))?;
        self.compact()
    }

    /// Erases everybody on the list: the database may be from before.
    pub(super) fn erase_again(&self) -> Result<(), AccountsError> {
        let listed = read(&self.list())?;
        let again = self.change_all(|connection| {
            let mut again = false;
            for person in &listed {
                let known: bool = connection.query_row(
                    "SELECT EXISTS (SELECT 1 FROM people WHERE id = ?1 AND is_erased = 0)",
                    [person],
                    |row| row.get(0),
                )?;
                if known {
                    wipe(connection, person)?;
                    again = true;
                }
            }
            Ok(again)
        })?;
        if again { self.compact() } else { Ok(()) }
    }

    /// The list of erased ids.
    pub(super) fn list(&self) -> PathBuf {
        list_beside(self.path())
    }

    /// Writes the database anew, so that no page holds bytes of deleted rows.
    fn compact(&self) -> Result<(), AccountsError> {
        let connection = self.connection();
        connection.execute_batch("VACUUM")?;
        // The write-ahead log holds old pages, too.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}

pub(super) fn list_beside(database: &Path) -> PathBuf {
    database.with_file_name(LIST)
}

fn wipe(connection: &Connection, person: &str) -> Result<(), AccountsError> {
    for table in ["sessions", "addresses", "tokens", "links", "shares"] {
        connection.execute(&format!("DELETE FROM {table} WHERE person = ?1"), [person])?;
    }
    connection.execute("DELETE FROM webhooks WHERE owner = ?1", [person])?;
    connection.execute("DELETE FROM requests WHERE owner = ?1", [person])?;
    connection.execute("UPDATE audit SET person = NULL WHERE person = ?1", [person])?;
    connection.execute(
        "UPDATE people SET name = NULL, name_key = NULL, password = NULL, seal_key = NULL, is_erased = 1, \
         is_disabled = 1, revision = revision + 1 WHERE id = ?1",
        [person],
    )?;
    Ok(())
}

/// Adds an id to a list; durable on return.
fn append(list: &Path, person: &PersonId) -> Result<(), AccountsError> {
    let failed = || AccountsError::io(format!("write {}", list.display()));
    let mut file =
        OpenOptions::new().create(true).append(true).mode(0o600).open(list).map_err(failed())?;
    file.write_all(format!("{person}\n").as_bytes()).map_err(failed())?;
    file.sync_all().map_err(failed())?;
    let folder = list.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed())
}

/// Returns the ids of a list. An unfinished last line is none.
pub(super) fn read(list: &Path) -> Result<BTreeSet<String>, AccountsError> {
    match std::fs::read_to_string(list) {
        Ok(text) => Ok(text.lines().filter(|id| id.parse::<PersonId>().is_ok()).map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(AccountsError::io(format!("read {}", list.display()))(error)),
    }
}

/// Adds the ids of another list.
pub(super) fn merge(from: &Path, into: &Path) -> Result<(), AccountsError> {
    let known = read(into)?;
    for person in read(from)?.difference(&known) {
        append(into, &person.parse()?)?;
    }
    Ok(())
}
