//! The end of a run.

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All rounds are done.
    Finished,
    /// It waits for judgements of people.
    WaitsForPeople,
    /// It waits until an operator resumes it.
    Paused,
    /// An operator cancelled it.
    Cancelled,
}
