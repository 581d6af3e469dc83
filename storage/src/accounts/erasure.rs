//! Erasure of people: their name, secrets and key go, and their verdicts stay without a name.

use rusqlite::{Connection, params};

use super::names::mentions;
use super::people::{check_other_admin, find};
use super::{Accounts, AccountsError, PersonId, Role, erased_list};

/// Text in place of one that mentions an erased person.
const ERASED: &str = "erased";

impl Accounts {
    /// Erases a person: name, password, sessions, addresses, tokens, links, shares, subscriptions, and the
    /// key of their comments. The audit trail and kept answers lose the name. The id stays known as erased.
    ///
    /// This cannot be undone. The id is written to a list beside the database first. After a failure of the
    /// database, the next start erases the person.
    ///
    /// # Errors
    /// If the person is unknown or the last admin, or the list or the database cannot be written. With
    /// [`NotWiped`](AccountsError::NotWiped) the person is erased, but the files still hold old bytes.
    pub fn erase(&self, person: &PersonId) -> Result<(), AccountsError> {
        let list = erased_list::beside(self.path());
        self.change_all(|connection| {
            let found = find(connection, person)?;
            if found.role == Role::Admin && !found.disabled {
                check_other_admin(connection, person)?;
            }
            erased_list::append(&list, [person])?;
            wipe(connection, person)
        })?;
        self.compact()
    }

    /// Returns the ids of erased people.
    ///
    /// # Errors
    /// If the list beside the database cannot be read.
    pub fn erased(&self) -> Result<Vec<PersonId>, AccountsError> {
        Ok(erased_list::read(&erased_list::beside(self.path()))?.into_iter().collect())
    }

    /// Erases people who were erased elsewhere, such as after the backup that this database is from. Unknown
    /// ids become known as erased. Returns the number of people whose name was still known.
    ///
    /// # Errors
    /// If the list or the database cannot be written.
    pub fn apply_erasures(&self, people: &[PersonId]) -> Result<usize, AccountsError> {
        erased_list::append(&erased_list::beside(self.path()), people)?;
        self.erase_listed()
    }

    /// Erases everybody on the list. Removes old bytes from the files also if there is nobody.
    pub(super) fn erase_listed(&self) -> Result<usize, AccountsError> {
        let listed = self.erased()?;
        let count = self.change_all(|connection| {
            let mut count = 0;
            for person in &listed {
                let is_new = connection.execute(
                    "INSERT OR IGNORE INTO people (id, role, created_at, is_erased, is_disabled) \
                     VALUES (?1, 'viewer', 0, 1, 1)",
                    [person.as_str()],
                )? > 0;
                let query = "SELECT is_erased FROM people WHERE id = ?1";
                let is_erased: bool = connection.query_row(query, [person.as_str()], |row| row.get(0))?;
                if !is_new && !is_erased {
                    wipe(connection, person)?;
                    count += 1;
                }
            }
            Ok(count)
        })?;
        if count > 0 {
            self.compact()?;
        } else {
            // A crash may have left old pages in the write-ahead log.
            checkpoint(&self.connection())?;
        }
        Ok(count)
    }

    /// Writes the database anew, so that no page holds bytes of deleted rows.
    fn compact(&self) -> Result<(), AccountsError> {
        let connection = self.connection();
        let vacuumed = connection.execute_batch("VACUUM");
        let is_in_use = |error: &rusqlite::Error| {
            use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
            matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
        };
        match vacuumed {
            Ok(()) if checkpoint(&connection)? => Ok(()),
            Ok(()) => Err(AccountsError::NotWiped),
            Err(error) if is_in_use(&error) => Err(AccountsError::NotWiped),
            Err(error) => Err(error.into()),
        }
    }
}

/// Empties the write-ahead log, which holds old pages. Returns whether no other process prevented that.
fn checkpoint(connection: &Connection) -> Result<bool, AccountsError> {
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    Ok(busy == 0)
}

fn wipe(connection: &Connection, person: &PersonId) -> Result<(), AccountsError> {
    let id = person.as_str();
    let query = "SELECT coalesce(name, '') FROM people WHERE id = ?1";
    let name: String = connection.query_row(query, [id], |row| row.get(0))?;
    for table in ["sessions", "addresses", "tokens", "links", "shares"] {
        connection.execute(&format!("DELETE FROM {table} WHERE person = ?1"), [id])?;
    }
    connection.execute("DELETE FROM webhooks WHERE owner = ?1", [id])?;
    connection.execute("DELETE FROM requests WHERE owner = ?1", [id])?;
    wipe_name_in_requests(connection, &name)?;
    wipe_name_in_audit(connection, &name)?;
    connection.execute(
        "UPDATE people SET name = NULL, name_key = NULL, password = NULL, seal_key = NULL, is_erased = 1, \
         is_disabled = 1, revision = revision + 1 WHERE id = ?1",
        [id],
    )?;
    Ok(())
}

/// Removes kept answers that have the name.
fn wipe_name_in_requests(connection: &Connection, name: &str) -> Result<(), AccountsError> {
    let mut found = Vec::new();
    let mut statement = connection.prepare("SELECT rowid, body FROM requests WHERE body IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let body: Vec<u8> = row.get(1)?;
        if mentions(&String::from_utf8_lossy(&body), name) {
            found.push(row.get::<_, i64>(0)?);
        }
    }
    for request in found {
        connection.execute("DELETE FROM requests WHERE rowid = ?1", [request])?;
    }
    Ok(())
}

/// Replaces the texts of the audit trail that have the name.
fn wipe_name_in_audit(connection: &Connection, name: &str) -> Result<(), AccountsError> {
    let mut found = Vec::new();
    let mut statement = connection.prepare("SELECT id, action, object, outcome FROM audit")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let texts: [String; 3] = [row.get(1)?, row.get(2)?, row.get(3)?];
        if texts.iter().any(|text| mentions(text, name)) {
            let id: i64 = row.get(0)?;
            found.push((id, texts.map(|text| if mentions(&text, name) { ERASED.to_owned() } else { text })));
        }
    }
    for (id, [action, object, outcome]) in found {
        connection.execute(
            "UPDATE audit SET action = ?2, object = ?3, outcome = ?4 WHERE id = ?1",
            params![id, action, object, outcome],
        )?;
    }
    Ok(())
}
