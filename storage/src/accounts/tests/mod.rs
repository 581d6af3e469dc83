//! The accounts as a server uses them.

mod activity;
mod data;
mod entry;
mod people;
mod threads;

use std::path::Path;

use super::{Accounts, FILE, PersonId, Role};

const NOW: u64 = 1_700_000_000;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const PASSWORD: &str = "correct horse";

/// A data folder with accounts.
struct Place {
    folder: tempfile::TempDir,
    accounts: Accounts,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&folder.path().join(FILE)).unwrap();
        Self { folder, accounts }
    }

    fn person(&self, name: &str, role: Role) -> PersonId {
        self.accounts.create(name, role, NOW).unwrap().id
    }

    fn with_password(&self, name: &str, role: Role) -> PersonId {
        let id = self.person(name, role);
        self.accounts.set_password(&id, PASSWORD).unwrap();
        id
    }
}

/// Whether any file of a folder has these bytes.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let mut files = files.collect::<Vec<_>>().into_iter();
    files.any(|file| file.windows(bytes.len()).any(|window| window == bytes))
}
