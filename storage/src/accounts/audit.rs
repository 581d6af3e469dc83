//! The audit trail: who read and changed what.

use rusqlite::{Connection, Row, params};
use serde::Serialize;

use super::people::PAGE_ROWS_MAX;
use super::{Accounts, AccountsError, Page, PersonId};

/// Longest text of a column, in bytes: paths come from clients.
const TEXT_BYTES_MAX: usize = 500;

/// By what a caller was known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// The user of the server's host, or the control token.
    Local,
    /// A session that was opened with a password.
    Session,
    /// A session that was opened with the personal link of this id.
    Link(String),
    /// The API token of this id.
    Token(String),
    /// Nobody.
    Nobody,
}

impl Channel {
    fn text(&self) -> String {
        match self {
            Self::Local => "local".to_owned(),
            Self::Session => "session".to_owned(),
            Self::Link(id) => format!("link {id}"),
            Self::Token(id) => format!("token {id}"),
            Self::Nobody => "nobody".to_owned(),
        }
    }
}

/// Something that was read or changed.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// Seconds since 1970 UTC.
    pub at: u64,
    /// The person; `None` without an account.
    pub person: Option<PersonId>,
    /// By what the caller was known.
    pub via: Channel,
    /// What was done, such as `POST /api/v1/people`.
    pub action: String,
    /// To what, such as a path.
    pub object: String,
    /// The id of the request, which the log of the process has, too.
    pub request_id: String,
    /// What came of it, such as `204`.
    pub outcome: String,
}

/// Which entries to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only those of this person.
    pub person: Option<String>,
    /// Only those of this object.
    pub object: Option<String>,
}

/// A line of the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRow {
    /// Numbers the line.
    pub id: i64,
    /// Seconds since 1970 UTC.
    pub at: u64,
    /// The person; `None` without an account. The id of an erased person stays.
    pub person: Option<String>,
    /// Their name; `None` once the person is erased.
    pub name: Option<String>,
    /// By what the caller was known.
    pub via: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// The id of the request.
    pub request_id: String,
    /// What came of it.
    pub outcome: String,
}

const COLUMNS: &str = "a.id, at, person, name, via, action, object, request_id, outcome";
const FILTER: &str = "a.id < ?1 AND (?2 IS NULL OR person = ?2) AND (?3 IS NULL OR object = ?3)";

fn prune(connection: &Connection, days: u64, now: u64) -> Result<usize, AccountsError> {
    let oldest = now.saturating_sub(days.saturating_mul(86_400));
    Ok(connection.execute("DELETE FROM audit WHERE at < ?1", [oldest])?)
}

fn short(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}

impl Accounts {
    /// Adds entries, and removes those that are too old.
    ///
    /// # Errors
    /// If the database fails.
    pub fn record(&self, entries: &[AuditEntry]) -> Result<(), AccountsError> {
        self.change_all(|connection| {
            let mut insert = connection.prepare_cached(
                "INSERT INTO audit (at, person, via, action, object, request_id, outcome) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for entry in entries {
                let AuditEntry { at, person, via, action, object, request_id, outcome } = entry;
                let person = person.as_ref().map(PersonId::as_str);
                let [action, object, request_id, outcome] =
                    [action, object, request_id, outcome].map(|text| short(text));
                insert.execute(params![at, person, via.text(), action, object, request_id, outcome])?;
            }
            if let Some(latest) = entries.iter().map(|entry| entry.at).max() {
                prune(connection, self.audit_days(), latest)?;
            }
            Ok(())
        })
    }

    /// Removes the entries that are too old. Returns their number.
    ///
    /// # Errors
    /// If the database fails.
    pub fn prune_audit(&self, now: u64) -> Result<usize, AccountsError> {
        prune(&self.connection(), self.audit_days(), now)
    }

    /// Returns a page of entries, the latest first. A page has 1 to 1000 rows.
    ///
    /// # Errors
    /// If the cursor is none, or the database fails.
    pub fn audit(
        &self,
        filter: &AuditFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<AuditRow>, AccountsError> {
        let before = cursor.map_or(Ok(i64::MAX), |cursor| {
            cursor.parse().map_err(|_| AccountsError::bad("cursor", "send `next` of the page before"))
        })?;
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let connection = self.connection();
        let query = format!(
            "SELECT {COLUMNS} FROM audit AS a LEFT JOIN people AS p ON p.id = person \
             WHERE {FILTER} ORDER BY a.id DESC LIMIT ?4"
        );
        let mut statement = connection.prepare_cached(&query)?;
        let rows = statement.query_map(params![before, filter.person, filter.object, limit + 1], row)?;
        let mut rows: Vec<AuditRow> = rows.collect::<Result<_, _>>()?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.id.to_string());
        Ok(Page { rows, next })
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        id: row.get(0)?,
        at: row.get(1)?,
        person: row.get(2)?,
        name: row.get(3)?,
        via: row.get(4)?,
        action: row.get(5)?,
        object: row.get(6)?,
        request_id: row.get(7)?,
        outcome: row.get(8)?,
    })
}
