//! The errors of this crate, split by the caller's options.

use std::io;
use std::sync::Arc;

use dissent_domain::conflict::ConflictError;
pub(crate) use dissent_domain::error::chain;
use dissent_domain::event::{CodecError, EventId, EventType, StepName};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::LogError;
use dissent_domain::rejection::Rejection;
use dissent_domain::replay::ReplayError;
use dissent_models::ModelError;
use dissent_queues::BrokerError;
use dissent_storage::{InvalidArtifactName, ResumeError, StorageError};

/// Why a step has no consequence for an event, by what happens next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// A later attempt may succeed: the delivery is retried, and parked after several attempts.
    #[error(transparent)]
    Retry(StepFault),
    /// No attempt can succeed for this prompt: the round continues without the prompt. The text is recorded,
    /// without its sources.
    #[error(transparent)]
    SetAside(StepFault),
    /// The step itself is broken: the run stops, and nothing is acknowledged.
    #[error(transparent)]
    Fatal(StepFault),
    /// The step was stopped on request: the delivery is released.
    #[error("cancelled")]
    Cancelled,
}

/// The cause of a [`StepError`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepFault {
    /// A model, a tokenizer or a template failed.
    #[error(transparent)]
    Model(Arc<ModelError>),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An artifact cannot be read or stored.
    #[error(transparent)]
    Storage(Arc<StorageError>),
    /// The log names an artifact by an invalid name.
    #[error(transparent)]
    ArtifactName(#[from] InvalidArtifactName),
    /// An event cannot be encoded or decoded.
    #[error(transparent)]
    Codec(Arc<CodecError>),
    /// The artifact with the completions of an evaluation cannot be read or written.
    #[error("cannot read or write the completions of an evaluation")]
    Samples(#[source] Arc<serde_json::Error>),
    /// Conflict cannot be measured.
    #[error(transparent)]
    Conflict(#[from] ConflictError),
    /// The step received an event that it does not consume.
    #[error(
        "event {id} of type {} is not supported by the {} step, which handles {} only",
        received.name(), step.name(), handled.name()
    )]
    WrongInput {
        /// The step.
        step: StepName,
        /// The event.
        id: EventId,
        /// The type of the event.
        received: EventType,
        /// The type that the step consumes.
        handled: EventType,
    },
    /// The step emitted an event that its row in the table of the pipeline lacks.
    #[error("the table of the pipeline does not list the emitted event {}", .0.name())]
    UnexpectedEvent(EventType),
    /// The step did not return one outcome for each event.
    #[error("the number of outcomes differs from the number of events")]
    OutcomeCount,
    /// The step panicked, with this message.
    #[error("the step panicked: {0}")]
    Panicked(String),
    /// The thread of the step has ended.
    #[error("the thread of the step has stopped")]
    ThreadGone,
    /// An event always fails, and it has no prompt to set aside.
    #[error("{0}")]
    GaveUp(String),
    /// The state has no models yet.
    #[error("the experiment has not started")]
    NotStarted,
    /// The opened model is not the one that the log names.
    #[error(
        "the opened model is {found}, but the log continues with {expected}: open the model that the experiment began with"
    )]
    WrongModel {
        /// Fingerprint of the opened model.
        found: String,
        /// Fingerprint in the log.
        expected: String,
    },
    /// An artifact that the log names holds no adapter.
    #[error("failed to read the adapter in artifact {artifact}")]
    Adapter {
        /// The artifact.
        artifact: String,
        /// The error of the reader.
        source: Arc<ModelError>,
    },
    /// An artifact that the plan names holds no preferences.
    #[error("failed to read the original preferences in artifact {artifact}")]
    Preferences {
        /// The artifact.
        artifact: String,
        /// The error of the reader, with line and column.
        source: Arc<serde_json::Error>,
    },
    /// The log has no completions of a prompt.
    #[error("the log has no completions of prompt {prompt_index} of round {round}")]
    MissingCompletions {
        /// The round.
        round: u32,
        /// The place of the prompt in the prompt file.
        prompt_index: u32,
    },
    /// An event that should carry completions is of another type.
    #[error("event {id} is {event_type}, not completions")]
    NotCompletions {
        /// The event.
        id: EventId,
        /// Its type.
        event_type: String,
    },
    /// A comparison names a completion that its prompt does not have.
    #[error("prompt {0} lacks a compared completion")]
    TooFewCompletions(PromptId),
    /// The policy returned no completions for a prompt.
    #[error("a prompt got no completions")]
    NoCompletions,
    /// Rewards do not name the completions that were scored.
    #[error("the rewards have no cause")]
    NoCause,
    /// The log lacks the completions that were scored.
    #[error("the cause {0} of the rewards is not in the log")]
    MissingCause(EventId),
    /// A gold reward is infinite or not a number.
    #[error("the gold reward of a completion is {0}")]
    GoldNotFinite(f64),
    /// The number of gold rewards differs from the number of completions.
    #[error("the number of gold rewards differs from the number of completions")]
    GoldCount,
    /// The gold reward has nothing to compare the completions of a prompt with.
    #[error("{gold} has no answer for {prompt_id}")]
    NoGold {
        /// The gold reward.
        gold: String,
        /// The prompt.
        prompt_id: PromptId,
    },
    /// Every held-out prompt was left out of an evaluation.
    #[error(
        "no held-out prompt can be sampled and scored: use prompts that fit the models and the gold reward"
    )]
    NothingToEvaluate,
    /// Every example of a training is too long.
    #[error(
        "all {examples} {kind} are longer than {section}.max_length, {max_length} tokens: start an experiment with a larger \
         max_length, or with a smaller generation.max_new_tokens"
    )]
    AllTooLong {
        /// The section of the configuration that has the limit.
        section: &'static str,
        /// The kind of example.
        kind: &'static str,
        /// The number of examples.
        examples: usize,
        /// The limit, in tokens.
        max_length: u32,
    },
}

impl StepError {
    /// An error that ends the run.
    pub fn fatal<F: Into<StepFault>>(fault: F) -> Self {
        Self::Fatal(fault.into())
    }

    /// An error for which no attempt can succeed for this prompt.
    pub fn set_aside<F: Into<StepFault>>(fault: F) -> Self {
        Self::SetAside(fault.into())
    }

    /// An error after which a later attempt may succeed.
    pub fn retry<F: Into<StepFault>>(fault: F) -> Self {
        Self::Retry(fault.into())
    }
}

impl From<ModelError> for StepFault {
    fn from(error: ModelError) -> Self {
        Self::Model(Arc::new(error))
    }
}

impl From<StorageError> for StepFault {
    fn from(error: StorageError) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<serde_json::Error> for StepFault {
    fn from(error: serde_json::Error) -> Self {
        Self::Samples(Arc::new(error))
    }
}

impl From<CodecError> for StepFault {
    fn from(error: CodecError) -> Self {
        Self::Codec(Arc::new(error))
    }
}

/// The failure that stops a run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunFailure {
    /// A step failed.
    #[error("the {} step failed", step.name())]
    Step {
        /// The step.
        step: StepName,
        /// The cause.
        source: StepFault,
    },
    /// A step cannot propose its results, or settle its deliveries.
    #[error("the {} step failed", step.name())]
    StepBroker {
        /// The step.
        step: StepName,
        /// The error of the broker.
        source: BrokerError,
    },
    /// The broker failed.
    #[error("failed to {action}")]
    Broker {
        /// The operation.
        action: &'static str,
        /// The error of the broker.
        source: BrokerError,
    },
    /// The log cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An event that was delivered cannot be decoded.
    #[error("failed to decode event {position}")]
    Event {
        /// Its position.
        position: u64,
        /// The error of the decoder.
        source: Arc<CodecError>,
    },
    /// A part of the process has ended too early.
    #[error("the {0} has stopped")]
    Gone(&'static str),
    /// The history of the experiment ended although the experiment did not.
    #[error("the experiment's history ended")]
    HistoryEnded,
    /// The history of the experiment cannot be followed, for this reason.
    #[error("failed to follow the experiment's history: {0}")]
    History(String),
    /// The received history contradicts itself.
    #[error("failed to follow the experiment's history")]
    Replay(#[from] Arc<ReplayError>),
}

impl RunFailure {
    pub(crate) fn broker(action: &'static str, source: BrokerError) -> Self {
        Self::Broker { action, source }
    }

    /// Whether the whole process has failed, and not only one experiment: the log cannot be read or written.
    #[must_use]
    pub fn is_of_process(&self) -> bool {
        match self {
            Self::Log(_) => true,
            Self::StepBroker { source, .. } | Self::Broker { source, .. } => {
                matches!(source, BrokerError::Log(_))
            }
            Self::Step { .. }
            | Self::Event { .. }
            | Self::Gone(_)
            | Self::HistoryEnded
            | Self::History(_)
            | Self::Replay(_) => false,
        }
    }

    pub(crate) fn training(source: impl Into<StepFault>) -> Self {
        Self::Step { step: StepName::Training, source: source.into() }
    }
}

/// Why a state cannot be rebuilt from the log.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An event cannot be applied.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

impl From<ResumeError> for LoadError {
    fn from(error: ResumeError) -> Self {
        match error {
            ResumeError::Log(error) => Self::Log(error),
            ResumeError::Replay(error) => Self::Replay(error),
        }
    }
}

/// Why an operator command has no effect.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The log has no such experiment.
    #[error("unknown experiment {0}: `dissent experiment list` shows the experiments of the log")]
    Unknown(ExperimentId),
    /// The rules reject the command.
    #[error("{experiment}: {rejection}")]
    Rejected {
        /// The experiment.
        experiment: ExperimentId,
        /// The reason.
        rejection: Rejection,
    },
    /// The rules reject a judgement, for this reason. None was recorded.
    #[error("{experiment}: the judgements are rejected: {reason}")]
    JudgementsRejected {
        /// The experiment.
        experiment: ExperimentId,
        /// The place of the judgement in the request, from 1.
        line: usize,
        /// The reason.
        reason: String,
    },
    /// The history of the experiment cannot be rebuilt.
    #[error("failed to load the experiment")]
    Load(#[from] LoadError),
    /// An event cannot be encoded.
    #[error("failed to encode the judgements")]
    Encode(#[from] CodecError),
    /// The log cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The journal has stopped.
    #[error("the journal has stopped")]
    Gone,
}

/// Why a pipeline or a worker does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The history of the experiment cannot be rebuilt.
    #[error("failed to load the experiment")]
    Load(#[from] LoadError),
    /// The broker failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The log cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The first event cannot be encoded.
    #[error("failed to start the experiment")]
    Encode(#[from] CodecError),
    /// The rules reject the start of the experiment, for this reason.
    #[error("failed to start the experiment: {0}")]
    Rejected(String),
    /// The steps of the experiment run in this process already.
    #[error("experiment {0} runs in this process already")]
    RunsHere(ExperimentId),
    /// The table of the pipeline lacks a step.
    #[error("the table of the pipeline has no {} step", .0.name())]
    NoStep(StepName),
    /// The system did not start a thread.
    #[error("failed to start the thread of the {} step", step.name())]
    Thread {
        /// The step.
        step: StepName,
        /// The error of the system.
        source: io::Error,
    },
    /// A role of this process needs a model or a setting that the resources lack.
    #[error(
        "failed to start the experiment: a role of this process needs {0}: \
         configure the resource, or remove the role"
    )]
    Missing(&'static str),
    /// A failure stopped the run.
    #[error(transparent)]
    Failed(#[from] RunFailure),
}
