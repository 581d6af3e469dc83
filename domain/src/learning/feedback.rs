//! The feedback of a round: requested comparisons, judgements, and the summary that settles it.

use serde::{Deserialize, Serialize};

use crate::due::Due;
use crate::event::{EventId, EventType, FeedbackEvent, FeedbackReceived, FeedbackRequested, FeedbackSettled};
use crate::feedback::{Agreement, Judgement, Judgements, Verdict};
use crate::plan::{FeedbackPlan, FeedbackSource};
use crate::round::ids::evaluated_id;

/// Longest name of an annotator, in bytes.
pub const ANNOTATOR_BYTES_MAX: usize = 256;
/// Longest comment on a judgement, in bytes.
pub const COMMENT_BYTES_MAX: usize = 16 << 10;

/// A requested comparison and its judgements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestedComparison {
    /// The request.
    pub request: FeedbackRequested,
    /// The rewards of the first and of the second completion, by the reward model of the round.
    pub rewards: [f64; 2],
    /// The judgements so far.
    pub judgements: Judgements,
}

/// Reason why a judgement of a comparison may not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ComparisonRejection {
    /// The round has no comparison with this number.
    #[error("the comparison is unknown")]
    Unknown,
    /// The feedback of the round is complete.
    #[error("the feedback of the round is settled")]
    Settled,
    /// The annotator's name is empty or longer than [`ANNOTATOR_BYTES_MAX`].
    #[error("the annotator's name must have 1 to 256 bytes")]
    AnnotatorLength,
    /// The comment is longer than [`COMMENT_BYTES_MAX`].
    #[error("the comment is longer than 16 KiB")]
    CommentTooLong,
    /// An annotator judges a comparison once.
    #[error("the annotator has already judged it")]
    AlreadyJudged,
}

/// The feedback of a round.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct RoundFeedback {
    comparisons: Vec<RequestedComparison>,
    judgements: u64,
    settled: Option<FeedbackSettled>,
}

impl RoundFeedback {
    pub(crate) fn comparisons(&self) -> &[RequestedComparison] {
        &self.comparisons
    }

    /// Number of judgements so far.
    pub(crate) fn judgements(&self) -> u64 {
        self.judgements
    }

    /// The summary; `None` before the feedback is settled.
    pub(crate) fn settled(&self) -> Option<&FeedbackSettled> {
        self.settled.as_ref()
    }

    /// Whether comparisons wait for judgements.
    pub(crate) fn waits(&self, plan: &FeedbackPlan) -> bool {
        !self.comparisons.is_empty() && self.settled.is_none() && !self.has_enough(plan)
    }

    fn has_enough(&self, plan: &FeedbackPlan) -> bool {
        plan.budget.is_some_and(|budget| self.judgements >= budget)
            || self.comparisons.iter().all(|comparison| comparison.has_overlap(plan))
    }

    /// Checks whether a judgement may happen.
    pub(crate) fn decide_received(&self, e: &FeedbackReceived) -> Result<(), ComparisonRejection> {
        let Some(comparison) = self.comparisons.get(e.comparison as usize) else {
            return Err(ComparisonRejection::Unknown);
        };
        if self.settled.is_some() {
            return Err(ComparisonRejection::Settled);
        }
        if e.annotator.trim().is_empty() || e.annotator.len() > ANNOTATOR_BYTES_MAX {
            return Err(ComparisonRejection::AnnotatorLength);
        }
        if e.comment.as_ref().is_some_and(|comment| comment.len() > COMMENT_BYTES_MAX) {
            return Err(ComparisonRejection::CommentTooLong);
        }
        if comparison.judgements.of(&e.annotator).is_some() {
            return Err(ComparisonRejection::AlreadyJudged);
        }
        Ok(())
    }

    /// Applies an event. `rewards` returns the rewards of a comparison's two completions.
    pub(crate) fn evolve(
        &mut self,
        event: &FeedbackEvent,
        rewards: impl FnOnce(&FeedbackRequested) -> [f64; 2],
    ) {
        match event {
            FeedbackEvent::Requested(e) => self.comparisons.push(RequestedComparison {
                request: e.clone(),
                rewards: rewards(e),
                judgements: Judgements::default(),
            }),
            FeedbackEvent::Received(e) => {
                if let Some(comparison) = self.comparisons.get_mut(e.comparison as usize) {
                    let judgement = Judgement { verdict: e.verdict, is_unsafe: e.is_unsafe };
                    comparison.judgements.insert(&e.annotator, judgement);
                    self.judgements += 1;
                }
            }
            FeedbackEvent::Settled(e) => self.settled = Some(e.clone()),
        }
    }

    /// Returns the summary once the judgements are complete or their budget is spent.
    pub(crate) fn due(&self, plan: &FeedbackPlan, round: u32, opened: EventId) -> Option<Due> {
        let is_due = self.settled.is_none() && self.has_enough(plan);
        is_due.then(|| Due::one(evaluated_id(opened), self.settle(round)))
    }

    fn settle(&self, round: u32) -> FeedbackSettled {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let verdicts = || {
            self.comparisons
                .iter()
                .filter_map(|comparison| Some((comparison, comparison.judgements.majority()?)))
        };
        let labels = |comparison: &RequestedComparison| {
            comparison.judgements.iter().map(|(_, judgement)| judgement.verdict).collect()
        };
        let labels: Vec<Vec<Verdict>> = self.comparisons.iter().map(labels).collect();
        FeedbackSettled {
            round,
            comparisons: count(self.comparisons.len()),
            judgements: self.judgements,
            preferences: count(verdicts().filter(|(_, verdict)| *verdict != Verdict::Tie).count()),
            ties: count(verdicts().filter(|(_, verdict)| *verdict == Verdict::Tie).count()),
            contradicted: count(
                verdicts().filter(|(comparison, verdict)| contradicts(comparison.rewards, *verdict)).count(),
            ),
            agreement: Agreement::of(&labels),
        }
    }

    /// Returns the requests that wait for the oracle. Empty where people judge.
    pub(crate) fn unanswered(&self, plan: &FeedbackPlan, opened: EventId) -> impl Iterator<Item = EventId> {
        let waits = plan.source == FeedbackSource::Oracle && self.waits(plan);
        let comparisons = if waits { self.comparisons() } else { &[] };
        let open = comparisons.iter().filter(|comparison| !comparison.has_overlap(plan));
        open.map(move |comparison| requested_id(opened, comparison.request.comparison))
    }
}

impl RequestedComparison {
    /// Whether it has as many judgements as the plan requires for each comparison.
    fn has_overlap(&self, plan: &FeedbackPlan) -> bool {
        self.judgements.len() >= plan.overlap as usize
    }
}

/// Whether the rewards rate the completion that was not preferred at least as high.
fn contradicts([first, second]: [f64; 2], verdict: Verdict) -> bool {
    match verdict {
        Verdict::First => second >= first,
        Verdict::Second => first >= second,
        Verdict::Tie => false,
    }
}

/// The id of the request for judgements of a comparison: the cause of those judgements.
pub(crate) fn requested_id(opened: EventId, comparison: u32) -> EventId {
    opened.caused(EventType::FeedbackRequested.name(), comparison)
}

pub(crate) fn settled_id(opened: EventId) -> EventId {
    evaluated_id(opened).caused(EventType::FeedbackSettled.name(), 0)
}
