//! Opens the database of accounts, and brings an older one up to date.

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::AccountsError;
use super::hashing::Passwords;
use super::throttle::Throttle;

/// The name of the database, in the data folder.
pub const FILE: &str = "accounts.sqlite";
/// Days for which entries of the audit trail are kept, unless [`Accounts::set_audit_days`] sets others.
pub const AUDIT_DAYS: u64 = 400;
/// Longest wait for another process that uses the database.
const BUSY: Duration = Duration::from_secs(5);

/// The changes of the database from each version to the next one. A change is never edited: add a further
/// one.
const MIGRATIONS: [&str; 2] = [include_str!("schema-1.sql"), include_str!("schema-2.sql")];

/// The accounts of a data folder. Clones share the database.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

struct Inner {
    path: PathBuf,
    connection: Mutex<Connection>,
    throttle: Mutex<Throttle>,
    passwords: Passwords,
    audit_days: AtomicU64,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Opens the database `path`, and creates it if it is missing. Only the owner of the process can read it.
    /// People on the list of erased people beside it are erased again.
    ///
    /// # Errors
    /// If the file cannot be used, or a later version of the program wrote it.
    pub fn open(path: &Path) -> Result<Self, AccountsError> {
        restrict(path)?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        migrate(&mut connection)?;
        // An acknowledged change survives a crash of the machine, and an erased row leaves no bytes behind.
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "secure_delete", true)?;
        // The sorters of SQLite write no name to another folder.
        connection.pragma_update(None, "temp_store", "memory")?;
        let accounts = Self(Arc::new(Inner {
            path: path.to_owned(),
            connection: Mutex::new(connection),
            throttle: Mutex::default(),
            passwords: Passwords::new()?,
            audit_days: AtomicU64::new(AUDIT_DAYS),
        }));
        accounts.erase_listed()?;
        Ok(accounts)
    }

    /// Sets the days for which entries of the audit trail are kept. The default is [`AUDIT_DAYS`].
    pub fn set_audit_days(&self, days: u64) {
        self.0.audit_days.store(days, Ordering::Relaxed);
    }

    pub(super) fn audit_days(&self) -> u64 {
        self.0.audit_days.load(Ordering::Relaxed)
    }

    /// The path of the database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.0.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    /// Makes changes together: all of them, or none.
    pub(super) fn change_all<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, AccountsError>,
    ) -> Result<T, AccountsError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let changed = change(&transaction)?;
        transaction.commit()?;
        Ok(changed)
    }
}

/// Creates the file with its mode before SQLite writes to it. An existing file loses the rights of others.
pub(super) fn restrict(path: &Path) -> Result<(), AccountsError> {
    let failed = || AccountsError::io(format!("open {}", path.display()));
    let opened = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let file = opened.map_err(failed())?;
    let mode = file.metadata().map_err(failed())?.permissions().mode();
    if mode & 0o077 != 0 {
        let permissions = std::fs::Permissions::from_mode(mode & 0o700);
        file.set_permissions(permissions).map_err(failed())?;
    }
    Ok(())
}

/// Brings a database up to date, in one transaction.
fn migrate(connection: &mut Connection) -> Result<(), AccountsError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(AccountsError::NewerVersion { found, known });
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.execute_batch(migration)?;
    }
    if found < known {
        transaction.pragma_update(None, "user_version", known)?;
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_databases_are_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute_batch(
            "INSERT INTO people (id, name, name_key, role, created_at) VALUES \
             ('p_aaaaaaaaaaaaaaaa', 'Ann', 'ann', 'researcher', 7), \
             ('p_bbbbbbbbbbbbbbbb', 'Ben', 'ben', 'researcher', 8); \
             INSERT INTO shares VALUES ('e', 'p_aaaaaaaaaaaaaaaa', 'owner'), \
             ('e', 'p_bbbbbbbbbbbbbbbb', 'owner'); \
             PRAGMA user_version = 1;",
        )
        .unwrap();
        drop(old);
        let accounts = Accounts::open(&path).unwrap();
        let names: Vec<String> = accounts.shares("e").unwrap().into_iter().map(|share| share.name).collect();
        assert_eq!(names, ["Ben"], "an experiment has one owner");
        assert_eq!(accounts.people(10, None).unwrap().rows.len(), 2);
        drop(accounts);
        assert!(Accounts::open(&path).is_ok(), "a second start changes nothing");
    }

    #[test]
    fn a_database_of_a_newer_program_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let newer = Connection::open(&path).unwrap();
        newer.pragma_update(None, "user_version", 9).unwrap();
        drop(newer);
        let before = std::fs::read(&path).unwrap();
        let error = Accounts::open(&path).unwrap_err();
        assert!(matches!(error, AccountsError::NewerVersion { found: 9, known: 2 }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_file_that_is_no_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(matches!(Accounts::open(&path), Err(AccountsError::Sqlite(_))));
    }

    #[test]
    fn a_failed_change_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&folder.path().join(FILE)).unwrap();
        let failed: Result<(), AccountsError> = accounts.change_all(|connection| {
            connection.execute("INSERT INTO audit VALUES (1, 1, NULL, '', '', '', '', '')", [])?;
            Err(AccountsError::Stale)
        });
        assert!(failed.is_err());
        let rows: u64 =
            accounts.connection().query_row("SELECT count(*) FROM audit", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0);
    }

    #[test]
    fn files_are_closed_to_others_also_if_they_were_open_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        let accounts = Accounts::open(&path).unwrap();
        accounts.create("ann", crate::accounts::Role::Viewer, 1).unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
        }
    }
}
