//! The contract of a step: from an event to the events that follow from it.
//!
//! A step has no access to brokers, threads or acknowledgements.

use dissent_domain::event::{CodecError, Event, EventBody, EventId, Recorded, StepName};

use crate::error::{StepError, StepFault};

/// Events that follow from a cause, to be proposed together.
#[derive(Debug, Clone, PartialEq)]
pub struct Consequence {
    /// The event that they follow from, usually the delivered one.
    pub cause: EventId,
    /// The events; may be empty.
    pub events: Vec<Event>,
}

/// An event that was delivered to a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Received<T = Event> {
    /// Its identity.
    pub id: EventId,
    /// The event from which it follows.
    pub causation: Option<EventId>,
    /// Its body.
    pub event: T,
}

impl<T> Received<T> {
    /// Returns the consequence of this event: `events`, with this event as their cause.
    pub(crate) fn leads_to(&self, events: impl Into<Vec<Event>>) -> Consequence {
        Consequence { cause: self.id, events: events.into() }
    }
}

impl Received {
    pub(crate) fn decode(recorded: &Recorded) -> Result<Self, CodecError> {
        let event = recorded.decode()?;
        Ok(Self { id: recorded.event.id, causation: recorded.event.causation, event })
    }

    /// The same event as the input of a step.
    fn typed<T: EventBody>(self, step: StepName) -> Result<Received<T>, StepError> {
        let Self { id, causation, event } = self;
        let event = T::try_from(event).map_err(|other| {
            let (received, handled) = (other.found, T::EVENT_TYPE);
            StepError::fatal(StepFault::WrongInput { step, id, received, handled })
        })?;
        Ok(Received { id, causation, event })
    }
}

/// A step of the pipeline that consumes one type of event. Its row in the table of the pipeline says which
/// events it emits.
pub trait Step: Send + 'static {
    /// The name of the step.
    const NAME: StepName;
    /// The body of the events that it consumes.
    type Input: EventBody;

    /// Maximum number of events handled at once, ≥ 1.
    fn batch(&self) -> usize {
        1
    }

    /// Returns the events that follow from one event. Runs on the thread of the step, so it may compute for
    /// hours.
    ///
    /// # Errors
    /// The reason why no event follows.
    fn handle(&mut self, received: &Received<Self::Input>) -> Result<Consequence, StepError>;

    /// Handles a batch as [`handle`](Self::handle) does; returns one outcome for each event, in order.
    fn handle_batch(&mut self, batch: &[Received<Self::Input>]) -> Vec<Result<Consequence, StepError>> {
        batch.iter().map(|received| self.handle(received)).collect()
    }
}

/// A step of any input.
pub(crate) trait AnyStep: Send + 'static {
    fn name(&self) -> StepName;
    fn batch(&self) -> usize;
    /// One outcome for each event, in order.
    fn handle_events(&mut self, batch: Vec<Received>) -> Vec<Result<Consequence, StepError>>;
}

impl<S: Step> AnyStep for S {
    fn name(&self) -> StepName {
        S::NAME
    }

    fn batch(&self) -> usize {
        Step::batch(self).max(1)
    }

    fn handle_events(&mut self, batch: Vec<Received>) -> Vec<Result<Consequence, StepError>> {
        let events = batch.len();
        let typed: Result<Vec<Received<S::Input>>, StepError> =
            batch.into_iter().map(|received| received.typed(S::NAME)).collect();
        match typed {
            Ok(typed) => self.handle_batch(&typed),
            // Fatal: the run stops, and nothing of the batch is acknowledged.
            Err(error) => vec![Err(error); events],
        }
    }
}
