//! Copies of the database, and their return.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use super::erasure::{list_beside, merge};
use super::{Accounts, AccountsError, FILE};

/// Pages of a step of a copy; others use the database between two steps.
const PAGES: std::ffi::c_int = 256;

impl Accounts {
    /// Copies the database and the list of erased people into a folder, while both are in use.
    ///
    /// # Errors
    /// If the folder or the copy cannot be written.
    pub fn backup(&self, folder: &Path) -> Result<(), AccountsError> {
        std::fs::create_dir_all(folder).map_err(AccountsError::io(format!("create {}", folder.display())))?;
        let path = folder.join(FILE);
        {
            // Its mode is set before anything is in it.
            use std::os::unix::fs::OpenOptionsExt as _;
            let opened = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
            opened.map_err(AccountsError::io(format!("create {}", path.display())))?;
        }
        let mut copy = Connection::open(&path)?;
        let connection = self.connection();
        Backup::new(&connection, &mut copy)?.run_to_completion(PAGES, Duration::ZERO, None)?;
        drop(connection);
        drop(copy);
        merge(&self.list(), &list_beside(&path))?;
        let synced = std::fs::File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(AccountsError::io(format!("write {}", path.display())))
    }

    /// Brings a copy back as the database of a data folder, which no process has open. People whom the copy or the
    /// data folder knows as erased stay erased. Returns whether the folder has a copy.
    ///
    /// # Errors
    /// If the copy cannot be read, or the data folder has accounts already.
    pub fn restore(folder: &Path, data_dir: &Path) -> Result<bool, AccountsError> {
        let (from, to) = (folder.join(FILE), data_dir.join(FILE));
        if !from.exists() {
            return Ok(false);
        }
        if to.exists() {
            let reason = format!("{} exists: move it away first", to.display());
            return Err(AccountsError::bad("data folder", reason));
        }
        merge(&list_beside(&from), &list_beside(&to))?;
        std::fs::copy(&from, &to).map_err(AccountsError::io(format!("copy {}", from.display())))?;
        Self::open(&to).map(|_| true)
    }
}
