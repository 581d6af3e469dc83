//! The events that the round step proposes next.

use crate::event::{Event, EventId};

/// Events that the round step proposes together.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// Their cause. It does not depend on the order in which a round's prompts were done.
    pub cause: EventId,
    /// The events.
    pub events: Vec<Event>,
}

impl Due {
    /// One event.
    pub(crate) fn one(cause: EventId, event: impl Into<Event>) -> Self {
        Self { cause, events: vec![event.into()] }
    }
}
