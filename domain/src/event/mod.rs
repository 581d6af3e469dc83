//! The events of an experiment.
//!
//! An event is a fact with one meaning. The [`envelope`] carries its type and schema version; its body is
//! MessagePack with named fields. A change of meaning is a new version, with an upcast from the old one in
//! [`codec`].
//!
//! Events come in families: [`Event::Prompt`] has the events of one prompt, [`Event::Training`] those of a
//! training. A fold matches the families, and every event of each family that it reads.

pub mod codec;
pub mod envelope;
mod evaluation;
mod experiment;
mod families;
mod feedback;
mod operator;
mod prompt;
mod round;
mod stage;
mod step_name;
mod stop_reason;
mod training;
mod upcast;

use serde::Serialize as _;

pub use codec::{CodecError, decode, encode};
pub use envelope::{EventId, NewEvent, Recorded, follow_from};
pub use evaluation::{EvaluationRequested, FiguresByPrompt, PolicyEvaluated};
pub use experiment::{ExperimentFinished, ExperimentForked, ExperimentStarted};
pub use feedback::{FeedbackReceived, FeedbackRequested, FeedbackSettled};
pub use operator::{ExperimentCancelled, ExperimentPaused, ExperimentResumed};
pub use prompt::{CompletionsSampled, ConflictMeasured, PromptAdmitted, PromptSetAside, RewardsScored};
pub use round::{
    PairSelected, RewardHackingSuspected, RoundClosed, RoundEvaluated, RoundOpened, StopDecided,
};
pub use stage::Stage;
pub use step_name::StepName;
pub use stop_reason::StopReason;
pub use training::{
    PolicyTuned, RewardModelRefined, TrainingLeaseExpired, TrainingProgressed, TrainingRequested,
    TrainingStarted,
};

/// The body of one type of event.
pub trait EventBody: Into<Event> + TryFrom<Event, Error = UnexpectedType> {
    /// The type of the events with this body.
    const EVENT_TYPE: EventType;

    /// Borrows the body of an event of this type; `None` if the event is of another type.
    fn of(event: &Event) -> Option<&Self>;
}

/// An event of another type than the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an event of type {}, not {}", expected.name(), found.name())]
pub struct UnexpectedType {
    /// The expected type.
    pub expected: EventType,
    /// The type of the event.
    pub found: EventType,
}

/// Declares [`Event`], its families and [`EventType`] from one table: a variant cannot lack a name or a
/// version.
macro_rules! events {
    ($(
        $(#[doc = $doc:literal])*
        $family:ident($(#[$attribute:meta])* $events:ident) {
            $($variant:ident($body:ident) = $name:literal, version $version:literal;)*
        }
    )*) => {
        /// An event of an experiment, by family.
        #[expect(
            clippy::large_enum_variant,
            reason = "the largest event holds a plan, and begins the stream of an experiment"
        )]
        #[derive(Debug, Clone, PartialEq)]
        pub enum Event { $($(#[doc = $doc])* $family($events),)* }

        /// The type of an event, by which subscriptions filter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each variant is documented at its event")]
        pub enum EventType { $($($body,)*)* }

        impl EventType {
            /// Every event type.
            pub const ALL: &'static [Self] = &[$($(Self::$body,)*)*];

            /// The stored name and routing key, `step.fact`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $($(Self::$body => $name,)*)* }
            }

            /// The current schema version.
            #[must_use]
            pub const fn version(self) -> u16 {
                match self { $($(Self::$body => $version,)*)* }
            }
        }

        impl Event {
            /// The event type.
            #[must_use]
            pub const fn event_type(&self) -> EventType {
                match self { $(Self::$family(event) => event.event_type(),)* }
            }

            pub(crate) fn to_msgpack(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
                match self { $($(Self::$family($events::$variant(body)) => rmp_serde::to_vec_named(body),)*)* }
            }

            pub(crate) fn from_msgpack(kind: EventType, body: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
                match kind { $($(EventType::$body => rmp_serde::from_slice::<$body>(body).map(Self::from),)*)* }
            }

            /// Serialises the body, for exports and people.
            ///
            /// # Errors
            /// The error of the serializer.
            pub fn serialize_body<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $($(Self::$family($events::$variant(body)) => body.serialize(serializer),)*)* }
            }
        }

        $(
            $(#[doc = $doc])*
            $(#[$attribute])*
            #[derive(Debug, Clone, PartialEq)]
            #[expect(missing_docs, reason = "each variant is its body, documented there")]
            pub enum $events { $($variant($body),)* }

            impl $events {
                /// The event type.
                #[must_use]
                pub const fn event_type(&self) -> EventType {
                    match self { $(Self::$variant(_) => EventType::$body,)* }
                }
            }

            impl From<$events> for Event {
                fn from(event: $events) -> Self { Self::$family(event) }
            }

            $(
                impl From<$body> for Event {
                    fn from(body: $body) -> Self { Self::$family($events::$variant(body)) }
                }

                impl TryFrom<Event> for $body {
                    type Error = UnexpectedType;

                    fn try_from(event: Event) -> Result<Self, UnexpectedType> {
                        let found = event.event_type();
                        if let Event::$family($events::$variant(body)) = event {
                            Ok(body)
                        } else {
                            Err(UnexpectedType { expected: Self::EVENT_TYPE, found })
                        }
                    }
                }

                impl EventBody for $body {
                    const EVENT_TYPE: EventType = EventType::$body;

                    fn of(event: &Event) -> Option<&Self> {
                        if let Event::$family($events::$variant(body)) = event { Some(body) } else { None }
                    }
                }
            )*
        )*
    };
}

events! {
    /// The experiment as a whole: its start, its fork, its end.
    Experiment(ExperimentEvent) {
        Started(ExperimentStarted) = "experiment.started", version 2;
        Forked(ExperimentForked) = "experiment.forked", version 1;
        Finished(ExperimentFinished) = "experiment.finished", version 1;
    }
    /// Operator commands.
    Operator(OperatorEvent) {
        Paused(ExperimentPaused) = "experiment.paused", version 1;
        Resumed(ExperimentResumed) = "experiment.resumed", version 1;
        Cancelled(ExperimentCancelled) = "experiment.cancelled", version 1;
    }
    /// A round: its opening, its selection and figures, warnings, its close.
    Round(RoundEvent) {
        Opened(RoundOpened) = "round.opened", version 1;
        PairSelected(PairSelected) = "conflict.pair_selected", version 1;
        Evaluated(RoundEvaluated) = "round.evaluated", version 1;
        RewardHackingSuspected(RewardHackingSuspected) = "round.reward_hacking_suspected", version 1;
        StopDecided(StopDecided) = "round.stop_decided", version 1;
        Closed(RoundClosed) = "round.closed", version 1;
    }
    /// One prompt in a round, from its admission to its conflict.
    Prompt(PromptEvent) {
        Admitted(PromptAdmitted) = "prompt.admitted", version 1;
        Sampled(CompletionsSampled) = "generation.completions_sampled", version 1;
        Scored(RewardsScored) = "reward.rewards_scored", version 1;
        Measured(ConflictMeasured) = "conflict.measured", version 1;
        SetAside(PromptSetAside) = "prompt.set_aside", version 1;
    }
    /// Comparisons and their judgements.
    Feedback(FeedbackEvent) {
        Requested(FeedbackRequested) = "feedback.requested", version 1;
        Received(FeedbackReceived) = "feedback.received", version 1;
        Settled(FeedbackSettled) = "feedback.settled", version 1;
    }
    /// Trainings of the reward model and of the policy.
    Training(TrainingEvent) {
        Requested(TrainingRequested) = "training.requested", version 1;
        Started(TrainingStarted) = "training.started", version 1;
        Progressed(TrainingProgressed) = "training.progressed", version 1;
        LeaseExpired(TrainingLeaseExpired) = "training.lease_expired", version 1;
        RewardModelRefined(RewardModelRefined) = "training.reward_model_refined", version 1;
        PolicyTuned(PolicyTuned) = "training.policy_tuned", version 1;
    }
    /// Evaluations on held-out prompts.
    Evaluation(
        #[expect(clippy::large_enum_variant, reason = "events are decoded one by one, and few are evaluations")]
        EvaluationEvent
    ) {
        Requested(EvaluationRequested) = "evaluation.requested", version 1;
        PolicyEvaluated(PolicyEvaluated) = "evaluation.policy_evaluated", version 1;
    }
}

impl EventType {
    /// Returns the event type with this stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl Event {
    /// Borrows the body; `None` if the event is of another type.
    #[must_use]
    pub fn body<B: EventBody>(&self) -> Option<&B> {
        B::of(self)
    }
}
