//! Copies of the database, and their return.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

use super::erased_list::{append, beside, read, sync_folder};
use super::open::restrict;
use super::{Accounts, AccountsError, FILE};

/// Beginning of the name of a folder of unfinished work. Only its owner can read it.
const UNFINISHED: &str = ".accounts-";

impl Accounts {
    /// Copies the database and the list of erased people into a folder, while both are in use. The folder is
    /// created if it is missing.
    ///
    /// # Errors
    /// If the folder has accounts already, or the copy cannot be written. Then it has no copy.
    pub fn backup(&self, folder: &Path) -> Result<(), AccountsError> {
        std::fs::create_dir_all(folder).map_err(AccountsError::io(format!("create {}", folder.display())))?;
        let to = folder.join(FILE);
        refuse_existing(&to)?;
        let unfinished = unfinished(folder)?;
        let copy = unfinished.path().join(FILE);
        restrict(&copy)?;
        {
            // A connection of its own: others use the database meanwhile.
            let source = Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let mut copy = Connection::open(&copy)?;
            const ALL_PAGES: std::ffi::c_int = std::ffi::c_int::MAX;
            Backup::new(&source, &mut copy)?.run_to_completion(ALL_PAGES, Duration::from_millis(50), None)?;
        }
        // After the copy, so that the list has everybody whom the copy knows as erased.
        append(&beside(&to), &read(&beside(self.path()))?)?;
        publish(&copy, &to)
    }

    /// Brings a copy back as the database of a data folder, which no process has open. Returns whether the
    /// folder has a copy.
    ///
    /// People whom the copy or the data folder lists as erased stay erased. All sessions end. Tokens and
    /// links that were revoked after the backup are valid again: revoke them again.
    ///
    /// # Errors
    /// If the copy cannot be read, or the data folder has accounts already. Then the data folder has no more
    /// than a longer list of erased people.
    pub fn restore(folder: &Path, data_dir: &Path) -> Result<bool, AccountsError> {
        let (from, to) = (folder.join(FILE), data_dir.join(FILE));
        if !from.try_exists().map_err(AccountsError::io(format!("read {}", from.display())))? {
            return Ok(false);
        }
        refuse_existing(&to)?;
        append(&beside(&to), &read(&beside(&from))?)?;
        let unfinished = unfinished(data_dir)?;
        let copy = unfinished.path().join(FILE);
        restrict(&copy)?;
        std::fs::copy(&from, &copy).map_err(AccountsError::io(format!("copy {}", from.display())))?;
        restrict(&copy)?;
        append(&beside(&copy), &read(&beside(&to))?)?;
        let accounts = Self::open(&copy)?;
        accounts.connection().execute("DELETE FROM sessions", [])?;
        drop(accounts);
        // Logs of a database that was moved away do not belong to this one.
        for suffix in ["-wal", "-shm", "-journal"] {
            let log = PathBuf::from(format!("{}{suffix}", to.display()));
            match std::fs::remove_file(&log) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(AccountsError::io(format!("remove {}", log.display()))(error));
                }
                _ => {}
            }
        }
        publish(&copy, &to)?;
        Ok(true)
    }
}

fn refuse_existing(path: &Path) -> Result<(), AccountsError> {
    if path.try_exists().map_err(AccountsError::io(format!("read {}", path.display())))? {
        let reason = format!("{} exists: move it away first, and leave the list beside it", path.display());
        return Err(AccountsError::bad("folder", reason));
    }
    Ok(())
}

fn unfinished(folder: &Path) -> Result<tempfile::TempDir, AccountsError> {
    let created = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(folder);
    created.map_err(AccountsError::io(format!("create a folder in {}", folder.display())))
}

/// Gives a finished file its name; durable on return.
fn publish(file: &Path, to: &Path) -> Result<(), AccountsError> {
    let synced = File::open(file).and_then(|file| file.sync_all());
    synced.map_err(AccountsError::io(format!("sync {}", file.display())))?;
    std::fs::rename(file, to).map_err(AccountsError::io(format!("create {}", to.display())))?;
    sync_folder(to)
}
