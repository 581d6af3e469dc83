//! The rows of the table of the pipeline.

use dissent_domain::event::{EventId, EventType, StepName};
use dissent_domain::feedback::ORACLE_ANNOTATOR;

/// When the pipeline of an experiment has a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// In every experiment.
    Always,
    /// If the experiment learns.
    Learning,
    /// If the experiment learns from an oracle.
    Oracle,
}

/// One step in the table of the pipeline.
#[derive(Debug)]
pub(crate) struct StepSpec {
    pub(crate) name: StepName,
    pub(crate) consumes: &'static [EventType],
    pub(crate) emits: &'static [EventType],
    pub(crate) presence: Presence,
    /// Whether each event that the step emits begins a trace of its own.
    pub(crate) begins_trace: bool,
    /// Whether the step is a role that a worker can have.
    pub(crate) is_role: bool,
    /// Whether the step skips events whose results are in the log, because a result may take hours to
    /// compute.
    pub(crate) skips_recorded: bool,
}

impl StepSpec {
    /// The ids of the events with which this step answers an event.
    pub(crate) fn result_ids(&self, cause: EventId) -> Vec<EventId> {
        let id = |kind: &EventType| {
            if *kind == EventType::FeedbackReceived {
                cause.judged_by(ORACLE_ANNOTATOR)
            } else {
                cause.caused(kind.name(), 0)
            }
        };
        self.emits.iter().map(id).collect()
    }
}

/// The table of a pipeline.
pub(crate) type Pipeline = [StepSpec];

/// The row of a step; `None` if the table lacks it.
pub(crate) fn row(pipeline: &'static Pipeline, name: StepName) -> Option<&'static StepSpec> {
    pipeline.iter().find(|spec| spec.name == name)
}
