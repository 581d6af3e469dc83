//! The memory that this process may use.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The folder of control groups (version 2).
const CGROUPS: &str = "/sys/fs/cgroup";

/// The memory that this process may use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct MachineMemory {
    /// The memory of the machine.
    pub(crate) total_bytes: u64,
    /// The limit of the control group, as of a container; `None` without a limit.
    pub(crate) limit_bytes: Option<u64>,
}

impl MachineMemory {
    /// Reads both.
    pub(crate) fn read() -> Self {
        let info = rustix::system::sysinfo();
        let total = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self { total_bytes: total, limit_bytes: limit(Path::new(CGROUPS), &own) }
    }

    /// Returns the bytes that this process may use.
    pub(crate) fn usable_bytes(self) -> u64 {
        self.limit_bytes.map_or(self.total_bytes, |limit| limit.min(self.total_bytes))
    }
}

/// Returns the lowest limit of a control group and those that contain it. `own` is `/proc/self/cgroup`.
fn limit(root: &Path, own: &str) -> Option<u64> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/');
    let folder: PathBuf = root.join(group);
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(root));
    let limits = folders.filter_map(|folder| fs::read_to_string(folder.join("memory.max")).ok());
    // A group without a limit has the word `max`.
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_nested_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(limit(root.path(), "0::/outer/inner\n"), None);
        fs::write(root.path().join("outer/memory.max"), "4096\n").unwrap();
        assert_eq!(limit(root.path(), "1:cpu:/\n0::/outer/inner\n"), Some(4096));
        fs::write(inner.join("memory.max"), "8192\n").unwrap();
        assert_eq!(limit(root.path(), "0::/outer/inner\n"), Some(4096));
        assert_eq!(limit(root.path(), ""), None, "a machine without control groups");
    }

    #[test]
    fn a_limit_above_the_memory_of_the_machine_is_no_limit() {
        let of = |limit_bytes| MachineMemory { total_bytes: 100, limit_bytes }.usable_bytes();
        assert_eq!((of(None), of(Some(40)), of(Some(1000))), (100, 40, 100));
        assert!(MachineMemory::read().usable_bytes() > 1 << 20);
    }
}
