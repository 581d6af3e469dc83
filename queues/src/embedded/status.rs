//! The status of a group, for people.

/// Where a group stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its name.
    pub group: String,
    /// Everything up to this position of the log is done with.
    pub checkpoint: u64,
    /// Everything up to this position was looked at.
    pub read_to: u64,
    /// Messages among these that were not begun yet.
    pub waiting: usize,
    /// Messages that are in hand now.
    pub in_hand: usize,
    /// Messages that are in hand, waiting for another attempt, or given back.
    pub unfinished: usize,
    /// Parked messages that nobody has taken note of.
    pub parked: usize,
}
