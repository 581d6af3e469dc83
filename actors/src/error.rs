//! The errors of this crate, by what the caller can do about them.

use dissent_domain::event::CodecError;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::LogError;
use dissent_domain::rejection::Rejection;
use dissent_domain::replay::ReplayError;
use dissent_queues::BrokerError;
use dissent_storage::ResumeError;

/// Why a step has no consequence for an event, by what happens next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// A later attempt may succeed: the delivery is retried, and parked after several attempts.
    #[error("{0}")]
    Retry(String),
    /// No attempt can succeed for this prompt: the round continues without it.
    #[error("{0}")]
    SetAside(String),
    /// The step itself is broken: the run stops, and nothing is acknowledged.
    #[error("{0}")]
    Fatal(String),
    /// The step was stopped on request: the delivery is released.
    #[error("cancelled")]
    Cancelled,
}

impl StepError {
    /// An error that ends the run, with its causes.
    pub(crate) fn fatal(error: impl std::error::Error) -> Self {
        Self::Fatal(chain(&error))
    }
}

/// An error and its causes, as one sentence.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A state cannot be rebuilt from the log.
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
        /// Why.
        rejection: Rejection,
    },
    /// The history of the experiment cannot be rebuilt.
    #[error("failed to load the experiment")]
    Load(#[from] LoadError),
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
    /// An event cannot be encoded.
    #[error("failed to start the experiment: {0}")]
    Encode(#[from] CodecError),
    /// The experiment cannot be started.
    #[error("failed to start the experiment: {0}")]
    Rejected(String),
    /// A role of this process needs a model or a setting that it was not given.
    #[error(
        "failed to start the experiment: a role of this process needs {0}: configure it, or remove the role"
    )]
    Missing(&'static str),
    /// A step failed and stopped the run.
    #[error("{0}")]
    Failed(String),
}
