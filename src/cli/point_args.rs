//! Options that name a position of a history: its number in the log, or the step that follows it.

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;

use crate::error::BadInput;
use crate::history::fork_points::{self, RoundStep};

/// A position of the log.
#[derive(Debug, clap::Args)]
pub(crate) struct PointArgs {
    /// Last position of the log that counts [default: the last event of the experiment]
    #[arg(long, value_name = "POSITION", conflicts_with_all = ["round", "before"])]
    at: Option<u64>,
    /// Round of --before, from 0 [default: the last one opened]
    #[arg(long, value_name = "R", requires = "before")]
    round: Option<u32>,
    /// Step of the round; only events before it count.
    #[arg(long, value_name = "STEP")]
    before: Option<RoundStep>,
}

impl PointArgs {
    /// Whether an option names a position.
    pub(crate) fn is_given(&self) -> bool {
        self.at.is_some() || self.before.is_some()
    }

    /// Returns the position in a log of several experiments, which cannot be named by a step.
    ///
    /// # Errors
    /// If a step names it.
    pub(crate) fn of_whole_log(&self) -> Result<Option<u64>, BadInput> {
        match self.before {
            Some(_) => Err(BadInput("--before needs an experiment: name one, or use --at".to_owned())),
            None => Ok(self.at),
        }
    }

    /// Returns the position; `None` for the last one.
    ///
    /// # Errors
    /// If the experiment has not reached the round or the step, or the log cannot be read.
    pub(crate) fn position(
        &self,
        log: &dyn EventLog,
        experiment: &ExperimentId,
    ) -> anyhow::Result<Option<u64>> {
        match self.before {
            Some(step) => fork_points::position_before(log, experiment, self.round, step).map(Some),
            None => Ok(self.at),
        }
    }
}
