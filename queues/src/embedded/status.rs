//! The status of a group, for operators.

/// The progress of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Name of the group.
    pub group: String,
    /// Every message up to this position of the log is done.
    pub checkpoint: u64,
    /// Every event up to this position was read.
    pub read_to: u64,
    /// Messages that were read and not yet delivered.
    pub waiting: usize,
    /// Messages that are delivered and not yet settled.
    pub unsettled: usize,
    /// Messages that are delivered, waiting for another attempt, or released.
    pub unfinished: usize,
    /// Parked messages whose parking is not acknowledged.
    pub parked: usize,
}
