//! The envelope of an event's body: id, position, time and cause.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CodecError, Event, FeedbackReceived, TrainingProgressed, codec};
use crate::id::ExperimentId;

/// Id of an event. It derives from the event's cause and is never random. A step that runs twice on the same
/// message proposes the same ids, and the log returns the recorded events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl EventId {
    /// The id of the first event of an experiment.
    #[must_use]
    pub fn of_experiment(experiment: &ExperimentId) -> Self {
        Self(Uuid::new_v5(&EXPERIMENT_NAMESPACE, experiment.as_str().as_bytes()))
    }

    /// The id of the `index`-th event of this type that `self` causes.
    #[must_use]
    pub fn caused(self, event_type: &str, index: u32) -> Self {
        let mut name = Vec::with_capacity(event_type.len() + 4);
        name.extend_from_slice(event_type.as_bytes());
        name.extend_from_slice(&index.to_be_bytes());
        Self(Uuid::new_v5(&self.0, &name))
    }

    /// The id of an annotator's judgement of the comparison that `self` requested. A repeated judgement has
    /// the same id.
    #[must_use]
    pub fn judged_by(self, annotator: &str) -> Self {
        Self(Uuid::new_v5(&self.0, annotator.as_bytes()))
    }

    /// The id of an event that `self` causes; `number` is its number among those of its type.
    pub(crate) fn causing(self, event: &Event, number: u32) -> Self {
        match event.body::<FeedbackReceived>() {
            Some(judgement) => self.judged_by(&judgement.annotator),
            None => self.caused(event.event_type().name(), number),
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const EXPERIMENT_NAMESPACE: Uuid = Uuid::from_u128(0x0c4c_1a52_7c3f_4e6f_8f5e_1c0b_9d2a_7e31);

/// An event to append.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Its id. A second append of the same id has no effect.
    pub id: EventId,
    /// The id of its cause; `None` for the first event of a stream.
    pub causation: Option<EventId>,
    /// The step that proposes it, for people to read.
    pub actor: String,
    /// Wall-clock time of the proposal, microseconds since 1970 UTC, for people to read. No rule uses it.
    pub time_us: u64,
    /// Name of its event type.
    pub event_type: String,
    /// Schema version of its body.
    pub schema_version: u16,
    /// The body as MessagePack.
    pub body: Vec<u8>,
}

impl NewEvent {
    /// Wraps an event for appending.
    ///
    /// # Errors
    /// If the body cannot be encoded.
    pub fn new(
        id: EventId,
        causation: Option<EventId>,
        actor: &str,
        time_us: u64,
        event: &Event,
    ) -> Result<Self, CodecError> {
        let kind = event.event_type();
        Ok(Self {
            id,
            causation,
            actor: actor.to_owned(),
            time_us,
            event_type: kind.name().to_owned(),
            schema_version: kind.version(),
            body: codec::encode(event)?,
        })
    }
}

/// Wraps events with one cause. Their ids are the same at every proposal: a judgement's id derives from its
/// annotator, a heartbeat's from its number. Other events are counted by type from 0.
///
/// # Errors
/// If a body cannot be encoded.
pub fn follow_from(
    cause: EventId,
    actor: &str,
    time_us: u64,
    events: &[Event],
) -> Result<Vec<NewEvent>, CodecError> {
    let mut counted: BTreeMap<&'static str, u32> = BTreeMap::new();
    events
        .iter()
        .map(|event| {
            let name = event.event_type().name();
            let number = match event.body::<TrainingProgressed>() {
                Some(heartbeat) => heartbeat.sequence,
                None => {
                    let counter = counted.entry(name).or_insert(0);
                    *counter += 1;
                    *counter - 1
                }
            };
            NewEvent::new(cause.causing(event, number), Some(cause), actor, time_us, event)
        })
        .collect()
}

/// A recorded event.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Position in the whole log, from 1, without gaps.
    pub position: u64,
    /// The experiment, which is the stream of the event.
    pub experiment: ExperimentId,
    /// Version: the place in the experiment's stream, from 1, without gaps.
    pub version: u64,
    /// The event as it was proposed.
    pub event: NewEvent,
}

impl Recorded {
    /// Decodes the body.
    ///
    /// # Errors
    /// If its type or version is unknown, or its bytes are not such a body.
    pub fn decode(&self) -> Result<Event, CodecError> {
        codec::decode(&self.event.event_type, self.event.schema_version, &self.event.body)
    }
}
