//! Ids of events, derived from the plan. Each is a function of the plan and of the place of the event.
//!
//! Each family of events derives its own ids, beside its rules; these functions begin at the plan.

use crate::event::{EventId, EventType};
use crate::id::ExperimentId;
use crate::learning::feedback;
use crate::plan::Plan;
use crate::round::{ids, prompts};

/// The id of the event that opens this round. Takes time in proportion to `round`; a
/// [`Round`](crate::round::Round) stores its own.
#[must_use]
pub fn round_opened_id(plan: &Plan, round: u32) -> EventId {
    let first = ids::first_opened_id(&plan.experiment);
    (0..round).fold(first, |opened, _| ids::next_opened_id(opened))
}

/// The id of the event that finishes the experiment after this many rounds.
#[must_use]
pub fn finished_id(plan: &Plan, rounds: u32) -> EventId {
    let last = round_opened_id(plan, rounds.saturating_sub(1));
    ids::closed_id(last).caused(EventType::ExperimentFinished.name(), 0)
}

/// The id of the request for a judgement of a comparison.
#[must_use]
pub fn feedback_requested_id(plan: &Plan, round: u32, comparison: u32) -> EventId {
    feedback::requested_id(round_opened_id(plan, round), comparison)
}

/// The id of the completions of a round's prompt, by the prompt's place in the prompt file.
#[must_use]
pub fn completions_sampled_id(plan: &Plan, round: u32, prompt_index: u32) -> EventId {
    prompts::sampled_id(round_opened_id(plan, round), prompt_index)
}

/// The id of the event that makes an experiment a fork. `generation` counts from 0; it grows where a fork is
/// forked again.
#[must_use]
pub fn forked_id(experiment: &ExperimentId, generation: u32) -> EventId {
    EventId::of_experiment(experiment).caused(EventType::ExperimentForked.name(), generation)
}
