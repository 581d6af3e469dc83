//! The part of an experiment that all its steps share.

use std::sync::Arc;

use dissent_domain::event::{EventId, EventType, StepName};
use dissent_domain::id::ExperimentId;
use dissent_queues::{Broker, Subscription};
use std::time::Duration;

use super::failure::Failure;
use super::gate::Gate;
use super::known::KnownHistory;
use super::spec::{self, Pipeline, StepSpec};
use super::stop::StopSignal;
use super::turns::Turns;
use crate::state::States;

/// Attempts before a message is parked. Only failures count: a killed process is not the message's fault.
const DELIVERY_LIMIT: u32 = 4;
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The shared context of the steps of an experiment.
#[derive(Clone)]
pub(crate) struct StepContext {
    pub(crate) experiment: ExperimentId,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) failure: Failure,
    pub(crate) known: KnownHistory,
    pub(crate) gate: Gate,
    /// The table of the pipeline.
    pub(crate) pipeline: &'static Pipeline,
    /// Tells that the experiment stops in this process.
    pub(crate) stop: StopSignal,
    pub(crate) states: States,
    /// The turns that the experiments of the process take.
    pub(crate) turns: Turns,
}

impl StepContext {
    /// The row of a step in the table of the pipeline; `None` if the table lacks it.
    pub(crate) fn spec(&self, step: StepName) -> Option<&'static StepSpec> {
        spec::row(self.pipeline, step)
    }

    /// The name of the model that a step runs now; empty if it runs none.
    pub(crate) fn model(&self, step: StepName) -> String {
        let current = match step {
            StepName::Generation | StepName::Evaluation => self.states.policy(&self.experiment),
            StepName::Reward => self.states.reward_model(&self.experiment),
            StepName::Round
            | StepName::Prompt
            | StepName::Conflict
            | StepName::Feedback
            | StepName::Training => None,
        };
        current.map(|model| model.fingerprint).unwrap_or_default()
    }
}

/// The subscription of a step to the events of an experiment.
pub(crate) fn subscription(
    step: StepName,
    consumes: &'static [EventType],
    experiment: &ExperimentId,
    batch: usize,
) -> Subscription {
    Subscription {
        group: group(step, experiment),
        experiment: Some(experiment.clone()),
        kinds: consumes,
        // The next batch is ready while the step handles one.
        prefetch: (2 * batch).min(dissent_queues::PREFETCH_MAX),
        delivery_limit: DELIVERY_LIMIT,
        retry_delay: RETRY_DELAY,
    }
}

/// The name of the broker's group that consumes the events of a step in an experiment.
pub(crate) fn group(step: StepName, experiment: &ExperimentId) -> String {
    format!("{}.{}", step.name(), EventId::of_experiment(experiment).0.simple())
}
