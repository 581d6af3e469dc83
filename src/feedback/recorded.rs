//! The recorded state of an experiment with feedback.

use anyhow::Context as _;
use dissent_domain::experiment::Experiment;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_domain::replay::Replay;
use dissent_domain::round::Round;

use crate::error::BadInput;
use crate::log_access::open;

/// Events of one read; each may hold all completions of a prompt.
const PAGE_EVENTS: usize = 256;

/// An experiment as recorded in the log.
pub(crate) struct RecordedExperiment {
    pub(crate) experiment: Experiment,
    /// Version of its last event.
    pub(crate) version: u64,
}

impl RecordedExperiment {
    pub(crate) fn read(log: &dyn EventLog, name: &ExperimentId) -> anyhow::Result<Self> {
        open::require_experiment(log, name)?;
        let mut replay = Replay::new();
        loop {
            let page = log.read_stream(name, replay.version(), PAGE_EVENTS)?;
            page.iter().try_for_each(|recorded| replay.apply(recorded))?;
            if page.len() < PAGE_EVENTS {
                return Ok(Self { version: replay.version(), experiment: replay.into_experiment() });
            }
        }
    }

    pub(crate) fn plan(&self) -> anyhow::Result<&Plan> {
        self.experiment.plan().context("the experiment has no plan")
    }

    /// Returns the last round that requested feedback.
    pub(crate) fn feedback_round(&self) -> anyhow::Result<&Round> {
        let plan = self.plan()?;
        if plan.learning.is_none() {
            return Err(BadInput(format!(
                "experiment {} requests no feedback: its configuration has no [feedback]",
                plan.experiment
            ))
            .into());
        }
        let round = self.experiment.rounds().iter().rfind(|round| round.evaluation().is_some());
        round.ok_or_else(|| {
            let reason = format!(
                "experiment {} has no comparisons yet: continue its first round with `dissent run`",
                plan.experiment
            );
            BadInput(reason).into()
        })
    }
}
