//! Options for reading a data set.

use super::format::Format;

/// The judgement that decides the preferred completion, for data sets with two judgements (PKU-SafeRLHF).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preferred {
    /// The more helpful one: `better_response_id`.
    #[default]
    Better,
    /// The safer one: `safer_response_id`.
    Safer,
}

/// The source of the margin by which the chosen completion's reward should exceed the rejected one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Margins {
    /// The column `margin`, as in TRL; 0 for rows without it.
    #[default]
    Column,
    /// `score_chosen` − `score_rejected`.
    Scores,
    /// 0 for all rows.
    Zero,
}

/// Options for reading a data set.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// The format; recognised from the first line if `None`.
    pub format: Option<Format>,
    /// The judgement that decides the preferred completion.
    pub preferred: Preferred,
    /// The source of margins.
    pub margins: Margins,
}
