//! Derived identities of events. Each is a function of the plan and of the number of expired leases.
//!
//! A round's events derive from the event that opened it, so the functions inside this crate start from that
//! id.

use crate::event::{EventId, EventType, Stage};
use crate::id::ExperimentId;
use crate::plan::Plan;

/// The id of the event that opens this round. Takes time in proportion to `round`: a
/// [`Round`](crate::round::Round) keeps its own.
#[must_use]
pub fn round_opened_id(plan: &Plan, round: u32) -> EventId {
    let first = EventId::of_experiment(&plan.experiment).caused(EventType::RoundOpened.name(), 0);
    (0..round).fold(first, |opened, _| next_round_opened_id(opened))
}

/// The id of the event that finishes the experiment after this many rounds.
#[must_use]
pub fn finished_id(plan: &Plan, rounds: u32) -> EventId {
    round_closed_id(round_opened_id(plan, rounds.saturating_sub(1)))
        .caused(EventType::ExperimentFinished.name(), 0)
}

/// The id of the request for a judgement of a comparison.
#[must_use]
pub fn feedback_requested_id(plan: &Plan, round: u32, comparison: u32) -> EventId {
    comparison_id(round_opened_id(plan, round), comparison)
}

/// The id of the completions of a round's prompt, by the prompt's place in the prompt file.
#[must_use]
pub fn completions_sampled_id(plan: &Plan, round: u32, prompt_index: u32) -> EventId {
    sampled_id(round_opened_id(plan, round), prompt_index)
}

/// The id of the event that makes an experiment a fork. `generation` counts from 0; it grows where a fork is
/// forked again.
#[must_use]
pub fn forked_id(experiment: &ExperimentId, generation: u32) -> EventId {
    EventId::of_experiment(experiment).caused(EventType::ExperimentForked.name(), generation)
}

pub(crate) fn next_round_opened_id(opened: EventId) -> EventId {
    round_closed_id(opened).caused(EventType::RoundOpened.name(), 0)
}

pub(crate) fn round_closed_id(opened: EventId) -> EventId {
    opened.caused(EventType::RoundClosed.name(), 0)
}

pub(crate) fn admitted_id(opened: EventId, prompt_index: u32) -> EventId {
    opened.caused(EventType::PromptAdmitted.name(), prompt_index)
}

pub(crate) fn sampled_id(opened: EventId, prompt_index: u32) -> EventId {
    admitted_id(opened, prompt_index).caused(EventType::CompletionsSampled.name(), 0)
}

pub(crate) fn scored_id(opened: EventId, prompt_index: u32) -> EventId {
    sampled_id(opened, prompt_index).caused(EventType::RewardsScored.name(), 0)
}

pub(crate) fn comparison_id(opened: EventId, comparison: u32) -> EventId {
    opened.caused(EventType::FeedbackRequested.name(), comparison)
}

pub(crate) fn round_evaluated_id(opened: EventId) -> EventId {
    opened.caused(EventType::RoundEvaluated.name(), 0)
}

pub(crate) fn feedback_settled_id(opened: EventId) -> EventId {
    round_evaluated_id(opened).caused(EventType::FeedbackSettled.name(), 0)
}

/// The id of a training's request. `cause` is the cause of its first attempt.
pub(crate) fn training_requested_id(cause: EventId, attempt: u32) -> EventId {
    let requested = |cause: EventId| cause.caused(EventType::TrainingRequested.name(), 0);
    (0..attempt).fold(requested(cause), |id, _| requested(lease_expired_id(id)))
}

pub(crate) fn lease_expired_id(requested: EventId) -> EventId {
    requested.caused(EventType::TrainingLeaseExpired.name(), 0)
}

/// The id of a training's result.
pub(crate) fn trained_id(requested: EventId, stage: Stage) -> EventId {
    let kind = match stage {
        Stage::Reward => EventType::RewardModelRefined,
        Stage::Policy => EventType::PolicyTuned,
    };
    requested.caused(kind.name(), 0)
}

/// The id of an evaluation's request.
pub(crate) fn evaluation_requested_id(cause: EventId) -> EventId {
    cause.caused(EventType::EvaluationRequested.name(), 0)
}
