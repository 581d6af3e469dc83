//! The end of a run.

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All rounds are done.
    Finished,
    /// The experiment waits for judgements of people.
    WaitsForPeople,
    /// The experiment waits until an operator resumes it.
    Paused,
    /// An operator cancelled the experiment.
    Cancelled,
}
