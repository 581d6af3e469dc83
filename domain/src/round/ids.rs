//! Ids of a round's own events. Each derives from the event that opened the round.

use crate::event::{EventId, EventType};
use crate::id::ExperimentId;

/// The id of the event that opens round 0.
pub(crate) fn first_opened_id(experiment: &ExperimentId) -> EventId {
    EventId::of_experiment(experiment).caused(EventType::RoundOpened.name(), 0)
}

/// The id of the event that opens the round after the one that `opened` opened.
pub(crate) fn next_opened_id(opened: EventId) -> EventId {
    closed_id(opened).caused(EventType::RoundOpened.name(), 0)
}

pub(crate) fn evaluated_id(opened: EventId) -> EventId {
    opened.caused(EventType::RoundEvaluated.name(), 0)
}

pub(crate) fn closed_id(opened: EventId) -> EventId {
    opened.caused(EventType::RoundClosed.name(), 0)
}
