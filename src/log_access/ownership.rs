//! Files that root leaves in the data folder of another user.
//!
//! A service often has a user of its own, and operators type commands as root. Opening the log directly
//! rewrites files of it. Those would then belong to root, with a mode that locks the service out of its own
//! log. So root gives its new files back to the owner of the data folder: when it opens a log, and when the
//! command ends.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Result;

use crate::socket_path::SOCKET;

/// Entries of a data folder that commands write.
const WRITTEN: [&str; 8] =
    ["log", "artifacts", "snapshots", "reports", "backups", "feedback-inbox", "inputs", SOCKET];
/// Deepest folder that is searched.
const DEPTH_MAX: usize = 8;

/// Data folders to give back when the command ends.
static OPENED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Gives files of root in a data folder to the owner of the folder, now and at the end of the command.
/// Does nothing for other users, and in a folder of root.
pub(crate) fn keep(data_dir: &Path) {
    if give_back(data_dir) {
        OPENED.lock().unwrap_or_else(PoisonError::into_inner).insert(data_dir.to_owned());
    }
}

/// Gives back the files of all folders passed to [`keep`], at the end of a command.
pub(crate) fn give_back_all() {
    let opened = std::mem::take(&mut *OPENED.lock().unwrap_or_else(PoisonError::into_inner));
    for data_dir in opened {
        give_back(&data_dir);
    }
}

/// Returns whether the folder belongs to another user than root, who runs this command.
fn give_back(data_dir: &Path) -> bool {
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    let given = open_folder(rustix::fs::CWD, data_dir).and_then(|folder| {
        let owner = Owner::of(&rustix::fs::fstat(&folder)?);
        if owner.user.is_root() {
            return Ok(false);
        }
        for name in WRITTEN {
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
