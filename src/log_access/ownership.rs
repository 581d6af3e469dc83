//! Files that root leaves in the data folder of another user.
//!
//! A service often has a user of its own, and operators type commands as root. Opening the log directly
//! rewrites files of it. Those would then belong to root, with a mode that locks the service out of its own
//! log. So root gives its new files back to the owner of the data folder: when it opens a log, and when the
//! command ends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Result;

use crate::socket_path::SOCKET;

/// Entries of a data folder that a process with its log writes.
const WITH_LOG: &[&str] = &[
    "log",
    "artifacts",
    "snapshots",
    "reports",
    "backups",
    "experiments",
    "installation",
    "judgements",
    "feedback-inbox",
    "inputs",
    SOCKET,
];
/// Entries that a command writes while another process has the log.
const BESIDE_LOG: &[&str] = &["reports"];
/// Deepest folder that is searched.
const DEPTH_MAX: usize = 8;

/// Data folders with the entries to give back when the command ends.
static OPENED: Mutex<BTreeMap<PathBuf, &[&str]>> = Mutex::new(BTreeMap::new());

/// Gives files of root in a data folder, whose log this process has open, to the owner of the folder: now and
/// at the end of the command. Does nothing for other users, and in a folder of root.
pub(crate) fn keep(data_dir: &Path) {
    if give_back(data_dir, WITH_LOG) {
        opened().insert(data_dir.to_owned(), WITH_LOG);
    }
}

/// As [`keep`], for a command that reads the log of another process.
pub(crate) fn keep_beside_log(data_dir: &Path) {
    if rustix::process::geteuid().is_root() {
        opened().entry(data_dir.to_owned()).or_insert(BESIDE_LOG);
    }
}

/// Gives back the files of all folders passed to [`keep`], at the end of a command.
pub(crate) fn give_back_all() {
    let opened = std::mem::take(&mut *opened());
    for (data_dir, entries) in opened {
        give_back(&data_dir, entries);
    }
}

fn opened() -> MutexGuard<'static, BTreeMap<PathBuf, &'static [&'static str]>> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether the folder belongs to another user than root, who runs this command.
fn give_back(data_dir: &Path, entries: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let given = rustix::fs::open(data_dir, flags, Mode::empty()).and_then(|folder| {
        let owner = Owner::of(&rustix::fs::fstat(&folder)?);
        if owner.user.is_root() {
            return Ok(false);
        }
        for name in entries {
            match owner.take(&folder, Path::new(name), 0) {
                Err(rustix::io::Errno::NOENT) => {}
                given => given?,
            }
        }
        Ok(true)
    });
    given.unwrap_or_else(|error| {
        tracing::warn!(path = %data_dir.display(), %error, "failed to give files to the owner of the data folder");
        false
    })
}

fn open_folder(parent: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, path, flags, Mode::empty())
}

/// The owner of a data folder.
struct Owner {
    user: Uid,
    group: Gid,
}

impl Owner {
    fn of(stat: &Stat) -> Self {
        Self { user: Uid::from_raw(stat.st_uid), group: Gid::from_raw(stat.st_gid) }
    }

    /// Takes an entry and, if it is a folder, its content. Links are not followed, and a file with a second
    /// name is left alone: the owner of the folder could otherwise have files of root elsewhere.
    fn take(&self, parent: &OwnedFd, name: &Path, depth: usize) -> Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_of_root = stat.st_uid == 0;
        if kind == FileType::Directory && depth < DEPTH_MAX {
            let folder = open_folder(parent, name)?;
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                if name != c"." && name != c".." {
                    let name = Path::new(OsStr::from_bytes(name.to_bytes()));
                    // Another process may delete files meanwhile, such as partial ones.
                    match self.take(&folder, name, depth + 1) {
                        Err(rustix::io::Errno::NOENT) => {}
                        taken => taken?,
                    }
                }
            }
        }
        let is_taken = kind == FileType::Directory
            || matches!(kind, FileType::RegularFile | FileType::Socket) && stat.st_nlink == 1;
        if is_of_root && is_taken {
            let (user, group) = (Some(self.user), Some(self.group));
            rustix::fs::chownat(parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}
