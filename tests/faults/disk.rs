//! A small file system for the log, which can be filled.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of the file system: several times the log of a round.
const BYTES: &str = "64m";

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

    /// Frees the space.
    pub(crate) fn clear(&self) {
        let _missing = std::fs::remove_file(self.filler());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _failed = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
