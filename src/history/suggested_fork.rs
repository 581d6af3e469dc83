//! The fork that continues a history with another plan.

use std::fmt;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;

use super::fork_points::{self, ForkPoint};
use super::settings::{self, Setting};
use crate::text::shell_command;

/// A fork that a plan needs. It shares as many events as possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SuggestedFork {
    pub(crate) origin: ExperimentId,
    /// A name that the log does not have.
    pub(crate) name: ExperimentId,
    point: ForkPoint,
    settings: Vec<Setting>,
}

impl fmt::Display for SuggestedFork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command())
    }
}

impl SuggestedFork {
    /// Returns the fork that changes the recorded plan into the wanted one. `None` if no fork can.
    ///
    /// # Errors
    /// If the log cannot be read, or contradicts the rules.
    pub(crate) fn between(
        log: &dyn EventLog,
        recorded: &Plan,
        wanted: &Plan,
    ) -> anyhow::Result<Option<Self>> {
        match settings::differences(recorded, wanted)? {
            Some(settings) => Self::with(log, &recorded.experiment, settings),
            None => Ok(None),
        }
    }

    /// Returns the last possible fork with these settings. `None` if there is none.
    ///
    /// # Errors
    /// If the log cannot be read, or contradicts the rules.
    pub(crate) fn with(
        log: &dyn EventLog,
        origin: &ExperimentId,
        settings: Vec<Setting>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(name) = free_name(log, origin)? else { return Ok(None) };
        let point = fork_points::last_forkable(log, origin, &name, &settings, None)?;
        Ok(point.map(|point| Self { origin: origin.clone(), name, point, settings }))
    }

    /// Returns the command that makes the fork, without its data folder.
    pub(crate) fn command(&self) -> String {
        let options = self.point.options();
        let settings: Vec<String> = self.settings.iter().map(Setting::to_string).collect();
        let mut words = vec!["dissent", "experiment", "fork", self.origin.as_str()];
        words.extend(options.iter().map(String::as_str));
        words.extend(["--as", self.name.as_str()]);
        words.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
        shell_command(words)
    }
}

/// Returns the first of `NAME-2`, `NAME-3` … that the log does not have. `None` if the name would be too
/// long.
fn free_name(log: &dyn EventLog, origin: &ExperimentId) -> anyhow::Result<Option<ExperimentId>> {
    let taken = log.streams()?;
    let mut names = (2_u32..).map_while(|number| ExperimentId::new(format!("{origin}-{number}")).ok());
    Ok(names.find(|name| taken.iter().all(|(stream, _)| stream != name)))
}
