//! Small file systems for the data of a server, which can be filled.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of a file system: several times the log of a round.
const BYTES: &str = "64m";
/// Folders of the data folder that have a file system of their own.
const FOLDERS: [&str; 3] = ["log", "snapshots", "backups"];

/// A file system in memory, unmounted on drop.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts a file system on a folder. Returns `None` without the permission to mount.
    pub(crate) fn mount(folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={BYTES}"), "tmpfs"]).arg(folder);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(folder.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Fills the file system to its last byte.
    pub(crate) fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        for bytes in [64 << 10, 4 << 10, 1] {
            let zeros = vec![0; bytes];
            while filler.write_all(&zeros).is_ok() {}
        }
    }

    /// Fills the file system except for some bytes.
    pub(crate) fn fill_but(&self, bytes: u64) {
        self.fill();
        let filler = OpenOptions::new().write(true).open(self.filler()).unwrap();
        let length = filler.metadata().unwrap().len();
        filler.set_len(length.saturating_sub(bytes)).unwrap();
    }

    /// Frees the space.
    pub(crate) fn clear(&self) {
        let _missing = std::fs::remove_file(self.filler());
    }

    /// Names of the files and folders, without the filler.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name());
        let names = entries.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name != "filler").collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _failed = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// The file systems of a data folder.
pub(crate) struct Disks {
    pub(crate) log: Disk,
    pub(crate) snapshots: Disk,
    pub(crate) backups: Disk,
}

impl Disks {
    /// Mounts the file systems of a data folder. Returns `None` without the permission to mount.
    pub(crate) fn mount(data: &Path) -> Option<Self> {
        let [log, snapshots, backups] = FOLDERS.map(|folder| Disk::mount(&data.join(folder)));
        Some(Self { log: log?, snapshots: snapshots?, backups: backups? })
    }
}
