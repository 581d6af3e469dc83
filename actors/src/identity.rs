//! Whether an event has the id that its cause gives it. Steps derive ids, so that what is proposed twice is recorded once; whoever
//! proposes under another id tries to make something happen twice, and is refused.

use dissent_domain::event::{Event, EventId, NewEvent};
use dissent_domain::experiment::Experiment;
use dissent_domain::id::ExperimentId;

/// Checks the id of an event that is proposed; `before` are those of the same proposal that are new, too.
///
/// # Errors
/// What id it has, and what it should be.
pub(crate) fn check(
    experiment: (&ExperimentId, &Experiment),
    proposed: &NewEvent,
    event: &Event,
    before: &[Event],
) -> Result<(), String> {
    let (name, state) = experiment;
    let expected = match (proposed.causation, event) {
        (None, _) => EventId::of_experiment(name),
        (Some(cause), Event::FeedbackReceived(e)) => cause.judged_by(&e.annotator),
        (Some(cause), _) => cause.caused(&proposed.event_type, number(state, event, before)),
    };
    if expected == proposed.id {
        Ok(())
    } else {
        Err(format!("its id is {}, and its cause makes it {expected}", proposed.id))
    }
}

/// The number of an event among those of its type with the same cause.
fn number(state: &Experiment, event: &Event, before: &[Event]) -> u32 {
    if let Event::PromptAdmitted(e) = event {
        e.index
    } else if let Event::FeedbackRequested(e) = event {
        e.comparison
    } else if let Event::TrainingProgressed(e) = event {
        e.sequence
    } else if matches!(event, Event::PairSelected(_)) {
        let selected = state.rounds().last().map_or(0, |round| round.counts().selected);
        let here = before.iter().filter(|event| matches!(event, Event::PairSelected(_))).count();
        selected.saturating_add(u32::try_from(here).unwrap_or(u32::MAX))
    } else {
        0
    }
}
