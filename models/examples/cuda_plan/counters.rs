//! The counters of the null GPU, in a file that it maps: a read sees every call so far.

use std::ops::Sub;
use std::path::PathBuf;

use crate::Failure;

/// Environment variable: the file of the counters.
const FILE: &str = "NULL_GPU_COUNTERS";

/// Calls of the null GPU, since its start or in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) bytes_to_device: u64,
    pub(crate) bytes_to_host: u64,
    pub(crate) bytes_on_device: u64,
    pub(crate) launches: u64,
    /// Calls of functions that the null GPU does not have.
    pub(crate) unknown_calls: u64,
}

impl Counts {
    /// Reads the counters. Their order is that of `enum counter` in the null GPU's source.
    pub(crate) fn now() -> Result<Self, Failure> {
        let path =
            std::env::var_os(FILE).ok_or_else(|| format!("{FILE} is not set: run cargo xtask cuda-plan"))?;
        let path = PathBuf::from(path);
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let counters: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        let [to_device, to_host, on_device, _, _, _, launches, _, _, _, unknown_calls] = counters[..] else {
            return Err(format!("{} has {} counters, not 11", path.display(), counters.len()).into());
        };
        Ok(Self {
            bytes_to_device: to_device,
            bytes_to_host: to_host,
            bytes_on_device: on_device,
            launches,
            unknown_calls,
        })
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            bytes_to_device: self.bytes_to_device - earlier.bytes_to_device,
            bytes_to_host: self.bytes_to_host - earlier.bytes_to_host,
            bytes_on_device: self.bytes_on_device - earlier.bytes_on_device,
            launches: self.launches - earlier.launches,
            unknown_calls: self.unknown_calls - earlier.unknown_calls,
        }
    }
}
