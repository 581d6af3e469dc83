//! Opens the database of accounts, and brings an older one up to date.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::AccountsError;
use super::passwords::Passwords;
use super::throttle::Throttle;

/// The name of the database, in the data folder.
pub const FILE: &str = "accounts.sqlite";
/// Longest wait for another process that uses the database.
const BUSY: Duration = Duration::from_secs(5);

/// The changes of the database from each version to the next one. A change is never edited: add a further one.
const MIGRATIONS: [&str; 1] = [include_str!("schema-1.sql")];

/// The accounts of a data folder. Clones share the database.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

struct Inner {
    path: PathBuf,
    connection: Mutex<Connection>,
    throttle: Mutex<Throttle>,
    passwords: Passwords,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Opens the database, and creates it if it is missing. Only the owner of the process can read it.
    ///
    /// # Errors
    /// If the file cannot be used, or a later version of the program wrote it.
    pub fn open(path: &Path) -> Result<Self, AccountsError> {
        restrict(path)?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        // An acknowledged change survives a crash of the machine, and an erased row leaves no bytes behind.
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "secure_delete", true)?;
        migrate(&mut connection)?;
        let accounts = Self(Arc::new(Inner {
            path: path.to_owned(),
            connection: Mutex::new(connection),
            throttle: Mutex::default(),
            passwords: Passwords::new()?,
        }));
        accounts.erase_again()?;
        Ok(accounts)
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

/// Creates the file with its mode before SQLite writes to it.
fn restrict(path: &Path) -> Result<(), AccountsError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let opened = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map(drop).map_err(AccountsError::io(format!("create {}", path.display())))
}

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
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}
