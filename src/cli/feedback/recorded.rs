//! The experiment that people give feedback on, as the log has it.

use anyhow::Context as _;
use dissent_domain::experiment::Experiment;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_domain::replay::Replay;
use dissent_domain::round::Round;

use crate::error::BadInput;
use crate::log_access::open;

/// Events read at a time: each may hold all the answers to a prompt.
const PAGE_EVENTS: usize = 256;

/// An experiment as the log has it.
pub(super) struct RecordedExperiment {
    pub(super) experiment: Experiment,
    /// Of its last event.
    pub(super) version: u64,
}

impl RecordedExperiment {
    pub(super) fn read(log: &dyn EventLog, name: &ExperimentId) -> anyhow::Result<Self> {
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

    pub(super) fn plan(&self) -> anyhow::Result<&Plan> {
        self.experiment.plan().context("the experiment has no plan")
    }

    /// The last round that put comparisons up.
    pub(super) fn asking(&self) -> anyhow::Result<&Round> {
        let plan = self.plan()?;
        if plan.learning.is_none() {
            return Err(BadInput(format!(
                "the experiment {} asks nobody: it was begun without [feedback]",
                plan.experiment
            ))
            .into());
        }
        let asking = self.experiment.rounds().iter().rfind(|round| round.evaluation().is_some());
        asking.ok_or_else(|| {
            let reason = format!(
                "the experiment {} has nothing to ask yet: its first round is still measured; `dissent run` goes on",
                plan.experiment
            );
            BadInput(reason).into()
        })
    }
}
