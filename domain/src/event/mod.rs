//! The events of an experiment.
//!
//! An event is a fact with one meaning. The [`envelope`] carries its type and schema version; its body is
//! MessagePack with named fields. A change of meaning is a new version, with an upcast from the old one in
//! [`codec`].

pub mod codec;
pub mod envelope;
mod evaluation;
mod feedback;
mod operator;
mod stage;
mod stop_reason;
mod training;
mod upcast;

use serde::{Deserialize, Serialize};

pub use codec::{CodecError, decode, encode};
pub use envelope::{EventId, NewEvent, Recorded, follow_from};
pub use evaluation::{EvaluationRequested, PolicyEvaluated, RewardHackingSuspected, StopDecided};
pub use feedback::{FeedbackReceived, FeedbackRequested, FeedbackSettled};
pub use operator::{ExperimentCancelled, ExperimentPaused, ExperimentResumed};
pub use stage::Stage;
pub use stop_reason::StopReason;
pub use training::{
    PolicyTuned, RewardModelRefined, TrainingLeaseExpired, TrainingProgressed, TrainingRequested,
    TrainingStarted,
};

use crate::conflict::Conflict;
use crate::generation::Completion;
use crate::id::{ExperimentId, PromptId};
use crate::plan::Plan;
use crate::prompt::Prompt;

/// An experiment started. The event has the whole plan, so that only the log determines the experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExperimentStarted {
    /// The plan.
    pub plan: Plan,
    /// Version of the program that started it; `None` in events of version 1.
    pub program: Option<String>,
}

impl ExperimentStarted {
    /// The start of an experiment by this program.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self { plan, program: Some(env!("CARGO_PKG_VERSION").to_owned()) }
    }
}

/// An experiment became a fork. The events before this one are shared with its origin; from here on another
/// plan applies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExperimentForked {
    /// The experiment whose history it shares.
    pub origin: ExperimentId,
    /// The position of the last shared event, in the log of the fork's creation.
    pub position: u64,
    /// Number of shared events.
    pub shared: u64,
    /// The plan that applies from here on.
    pub plan: Plan,
}

/// A round opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundOpened {
    /// The round, from 0.
    pub round: u32,
    /// Number of prompts. The round is complete when each of them is measured or set aside.
    pub prompts: u32,
}

/// A prompt entered a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptAdmitted {
    /// The round.
    pub round: u32,
    /// Its place in the prompt file, from 0.
    pub index: u32,
    /// The prompt.
    pub prompt: Prompt,
}

/// The policy sampled N completions of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionsSampled {
    /// The round.
    pub round: u32,
    /// The whole prompt: a worker of the reward step needs its text and has no other source.
    pub prompt: Prompt,
    /// Fingerprint of the policy, its adapter included.
    pub policy: String,
    /// Token ids of the rendered prompt, as the policy saw them.
    pub prompt_token_ids: Vec<u32>,
    /// The completions, by sample index.
    pub completions: Vec<Completion>,
}

/// The proxy reward model scored a prompt's completions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardsScored {
    /// The round.
    pub round: u32,
    /// The prompt.
    pub prompt_id: PromptId,
    /// Fingerprint of the reward model, its adapter included.
    pub reward_model: String,
    /// One reward per completion; larger is better. The scores of a cost model are already negated.
    pub rewards: Vec<f64>,
}

/// The disagreement between policy and proxy on one prompt was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConflictMeasured {
    /// The round.
    pub round: u32,
    /// The prompt.
    pub prompt_id: PromptId,
    /// PACS, Kendall's tau and the pair counts.
    pub conflict: Conflict,
}

/// A step set a prompt aside; the round continues without it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptSetAside {
    /// The round.
    pub round: u32,
    /// The prompt.
    pub prompt_id: PromptId,
    /// The step.
    pub step: StepName,
    /// The reason, for a person to read.
    pub reason: String,
}

/// A pair (a prompt and one completion) was selected for feedback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairSelected {
    /// The round.
    pub round: u32,
    /// The prompt.
    pub prompt_id: PromptId,
    /// The index of the completion.
    pub completion: u32,
    /// The PACS of the completion.
    pub pacs: f64,
}

/// The figures of a round, over all its measured prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundEvaluated {
    /// The round.
    pub round: u32,
    /// Prompts measured, degenerate ones included.
    pub measured: u32,
    /// Prompts on which conflict is undefined (constant rewards or log-probabilities, or N < 2).
    pub degenerate: u32,
    /// Prompts set aside.
    pub set_aside: u32,
    /// Pairs selected.
    pub selected: u32,
    /// Mean over non-degenerate prompts of mean|PACS|; `None` if there is no such prompt.
    pub mean_abs_pacs: Option<f64>,
    /// Mean over prompts with a defined tau of Kendall's tau; `None` if there is no such prompt.
    pub kendall_tau: Option<f64>,
}

/// A round closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundClosed {
    /// The round.
    pub round: u32,
}

/// The experiment did all its rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExperimentFinished {
    /// Number of rounds.
    pub rounds: u32,
}

/// The name of a step of the pipeline. The same word names the module, the actor, the queue and the tracing
/// span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// Admits prompts.
    Prompt,
    /// Samples completions.
    Generation,
    /// Scores completions.
    Reward,
    /// Measures conflict.
    Conflict,
    /// Opens, closes and evaluates rounds.
    Round,
    /// Collects judgements from people or from an oracle.
    Feedback,
    /// Fine-tunes the reward model and the policy.
    Training,
    /// Measures a policy on held-out prompts.
    Evaluation,
}

impl StepName {
    /// Every step.
    pub const ALL: [Self; 8] = [
        Self::Prompt,
        Self::Generation,
        Self::Reward,
        Self::Conflict,
        Self::Round,
        Self::Feedback,
        Self::Training,
        Self::Evaluation,
    ];

    /// The name of the step.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Generation => "generation",
            Self::Reward => "reward",
            Self::Conflict => "conflict",
            Self::Round => "round",
            Self::Feedback => "feedback",
            Self::Training => "training",
            Self::Evaluation => "evaluation",
        }
    }
}

/// The body of one type of event.
pub trait EventBody: Into<Event> + Sized {
    /// The type of the events with this body.
    const EVENT_TYPE: EventType;

    /// The body of an event of this type; none if the event is of another type.
    fn from_event(event: Event) -> Option<Self>;
}

/// Declares [`Event`] and [`EventType`] from one table, so that a variant cannot lack a name or a version.
macro_rules! events {
    ($($variant:ident = $name:literal, version $version:literal;)*) => {
        /// An event of an experiment.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "each variant is its struct, documented there")]
        pub enum Event { $($variant($variant),)* }

        /// The type of an event, by which subscriptions filter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each variant is documented at its event")]
        pub enum EventType { $($variant,)* }

        impl EventType {
            /// Every event type.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stored name and routing key, `step.fact`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The current schema version.
            #[must_use]
            pub const fn version(self) -> u16 {
                match self { $(Self::$variant => $version,)* }
            }
        }

        impl Event {
            /// The event type.
            #[must_use]
            pub const fn event_type(&self) -> EventType {
                match self { $(Self::$variant(_) => EventType::$variant,)* }
            }

            pub(crate) fn to_msgpack(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
                match self { $(Self::$variant(body) => rmp_serde::to_vec_named(body),)* }
            }

            pub(crate) fn from_msgpack(kind: EventType, body: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
                match kind { $(EventType::$variant => rmp_serde::from_slice(body).map(Self::$variant),)* }
            }

            /// Serialises the body, for exports and people.
            ///
            /// # Errors
            /// The error of the serializer.
            pub fn serialize_body<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $(Self::$variant(body) => body.serialize(serializer),)* }
            }
        }

        $(impl From<$variant> for Event {
            fn from(body: $variant) -> Self { Self::$variant(body) }
        }

        impl EventBody for $variant {
            const EVENT_TYPE: EventType = EventType::$variant;

            fn from_event(event: Event) -> Option<Self> {
                if let Event::$variant(body) = event { Some(body) } else { None }
            }
        })*
    };
}

events! {
    ExperimentStarted = "experiment.started", version 2;
    ExperimentForked = "experiment.forked", version 1;
    RoundOpened = "round.opened", version 1;
    PromptAdmitted = "prompt.admitted", version 1;
    CompletionsSampled = "generation.completions_sampled", version 1;
    RewardsScored = "reward.rewards_scored", version 1;
    ConflictMeasured = "conflict.measured", version 1;
    PromptSetAside = "prompt.set_aside", version 1;
    PairSelected = "conflict.pair_selected", version 1;
    RoundEvaluated = "round.evaluated", version 1;
    RoundClosed = "round.closed", version 1;
    ExperimentFinished = "experiment.finished", version 1;
    FeedbackRequested = "feedback.requested", version 1;
    FeedbackReceived = "feedback.received", version 1;
    FeedbackSettled = "feedback.settled", version 1;
    TrainingRequested = "training.requested", version 1;
    TrainingStarted = "training.started", version 1;
    TrainingProgressed = "training.progressed", version 1;
    TrainingLeaseExpired = "training.lease_expired", version 1;
    RewardModelRefined = "training.reward_model_refined", version 1;
    PolicyTuned = "training.policy_tuned", version 1;
    EvaluationRequested = "evaluation.requested", version 1;
    PolicyEvaluated = "evaluation.policy_evaluated", version 1;
    RewardHackingSuspected = "round.reward_hacking_suspected", version 1;
    StopDecided = "round.stop_decided", version 1;
    ExperimentPaused = "experiment.paused", version 1;
    ExperimentResumed = "experiment.resumed", version 1;
    ExperimentCancelled = "experiment.cancelled", version 1;
}

impl EventType {
    /// Returns the event type with this stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether an event of this kind records an operator command.
    pub(crate) const fn is_operator_command(self) -> bool {
        matches!(self, Self::ExperimentPaused | Self::ExperimentResumed | Self::ExperimentCancelled)
    }
}

impl Event {
    /// The number of the pause that this event begins or ends.
    pub(crate) fn pause_number(&self) -> Option<u32> {
        if let Self::ExperimentPaused(e) = self {
            Some(e.number)
        } else if let Self::ExperimentResumed(e) = self {
            Some(e.number)
        } else {
            None
        }
    }
}

impl Event {
    /// The round and the prompt that a step works on when it receives this event; none if it works on no
    /// single prompt.
    #[must_use]
    pub fn prompt(&self) -> Option<(u32, &PromptId)> {
        if let Self::PromptAdmitted(e) = self {
            Some((e.round, &e.prompt.prompt_id))
        } else if let Self::CompletionsSampled(e) = self {
            Some((e.round, &e.prompt.prompt_id))
        } else if let Self::RewardsScored(e) = self {
            Some((e.round, &e.prompt_id))
        } else {
            None
        }
    }
}
