//! How a data set is read.

use super::format::Format;

/// Which answer counts as the preferred one where a data set asked two questions (PKU-SafeRLHF).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preferred {
    /// The more helpful one: `better_response_id`.
    #[default]
    Better,
    /// The safer one: `safer_response_id`.
    Safer,
}

/// By how much the reward of the preferred answer should exceed the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Margins {
    /// By the column `margin`, where there is one, as TRL takes it.
    #[default]
    Column,
    /// By `score_chosen` − `score_rejected`.
    Scores,
    /// By nothing in particular.
    Zero,
}

/// How a file is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// The format; none: recognised from the first line.
    pub format: Option<Format>,
    /// Which answer is the preferred one.
    pub preferred: Preferred,
    /// Where margins come from.
    pub margins: Margins,
}
