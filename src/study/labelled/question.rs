//! A question of a study on labelled completions.

/// A question with its completions and their human judgements.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Question {
    /// The question, or another prompt.
    pub(super) question: String,
    /// The source passages of the completions, with two newlines between them. Each has a title and
    /// sentences. Empty without passages.
    pub(super) passages: String,
    /// The completions.
    pub(super) completions: Vec<String>,
    /// The preferred and the other completion of each compared pair, without ties.
    pub(super) preferred: Vec<(usize, usize)>,
    /// The compared pairs of which neither completion is preferred.
    pub(super) ties: Vec<(usize, usize)>,
}
