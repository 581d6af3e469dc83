//! A fork: an experiment that shares the history of another one and continues with other settings.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::event::{NewEvent, Recorded};
use dissent_domain::fork::{ForkBuilder, ForkError};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::plan::Plan;
use dissent_storage::wait;
use serde::{Deserialize, Serialize};

use super::carried;
use super::focus::Focus;
use super::kept_config::KeptConfigs;
use super::plan_check::recorded_plan;
use crate::error::BadInput;
use crate::history::settings::{self, Scope, Setting};
use crate::history::{self, fork_points};

/// Events of one append.
const APPEND_EVENTS: usize = 256;

/// A fork to make.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForkRequest {
    /// The name of the fork.
    pub(crate) name: ExperimentId,
    /// Changed settings, `KEY=VALUE`.
    #[serde(default)]
    pub(crate) set: Vec<String>,
    /// Further pairs to ask.
    #[serde(default)]
    pub(crate) focus: Option<Focus>,
    /// The last shared position; all events if `None`.
    #[serde(default)]
    pub(crate) at: Option<u64>,
}

/// A fork that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Forked {
    /// The fork.
    pub(crate) experiment: ExperimentId,
    /// The number of shared events.
    pub(crate) shared: u64,
    pub(crate) plan: Plan,
    /// The file with judgements that the fork can take over, and their number.
    pub(crate) judgements: Option<PathBuf>,
    pub(crate) judgements_count: u64,
    /// Whether the data folder keeps the configuration of the fork.
    pub(crate) is_kept: bool,
    /// Whether a server runs the fork.
    pub(crate) is_hosted: bool,
}

/// Records a fork. If the data folder keeps the configuration of the origin, it also keeps that of the fork.
///
/// # Errors
/// If the name is taken, the settings do not fit, the position cannot be forked, or the log fails.
pub(crate) fn make_fork(
    log: &dyn EventLog,
    data_dir: &Path,
    origin: &ExperimentId,
    request: &ForkRequest,
) -> anyhow::Result<Forked> {
    let ForkRequest { name, set, focus, at } = request;
    if name == origin {
        return Err(exists(name));
    }
    let parse = |text: &String| text.parse::<Setting>().map_err(|reason| BadInput(reason.to_string()));
    let settings: Vec<Setting> = set.iter().map(parse).collect::<Result<_, _>>()?;
    let fork = Fork { log, origin, name, settings: &settings, focus: focus.as_ref(), at: *at };
    let recorded = log.streams()?.iter().find(|(other, _)| other == name).map_or(0, |(_, last)| *last);
    let (forked, plan) = fork.prepare(recorded)?;
    let shared = fork.append_shared()?;
    append(log, name, vec![forked])?;
    let (judgements, judgements_count) = match fork.judgements(&plan, data_dir)? {
        Some((path, count)) => (Some(path), count as u64),
        None => (None, 0),
    };
    let is_kept = fork.keep_configuration(&plan, data_dir)?;
    let experiment = name.clone();
    Ok(Forked { experiment, shared, plan, judgements, judgements_count, is_kept, is_hosted: false })
}

/// A fork that is being made.
struct Fork<'a> {
    log: &'a dyn EventLog,
    origin: &'a ExperimentId,
    name: &'a ExperimentId,
    settings: &'a [Setting],
    focus: Option<&'a Focus>,
    /// The last shared position; all events if `None`.
    at: Option<u64>,
}

impl Fork<'_> {
    /// Checks the whole shared history before anything is written. Returns the event that ends the history,
    /// and the fork's plan. `recorded` is the number of events that the log has under the fork's name.
    fn prepare(&self, recorded: u64) -> anyhow::Result<(NewEvent, Plan)> {
        let mut builder = ForkBuilder::new(self.name.clone());
        let mut last = None;
        self.each(&mut |event| {
            let shared = builder.share(event)?;
            // An interrupted fork resumes. Another experiment of this name is an error.
            if event.version <= recorded && !is_recorded(self.log, &shared)? {
                return Err(exists(self.name));
            }
            last = Some(event.position);
            Ok(())
        })?;
        let Some(last) = last else { return Err(self.begins_later()?) };
        if recorded > builder.shared() {
            return Err(exists(self.name));
        }
        if builder.experiment().is_over() {
            let over = if builder.experiment().is_finished() { "finished" } else { "cancelled" };
            let reason = format!("experiment {} is {over} at position {last}", self.origin);
            return Err(self.not_here(&reason)?);
        }
        let plan = builder.experiment().plan().context("the shared events have no plan")?;
        let mut plan = settings::changed(plan, self.settings, Scope::Fork)?;
        if let Some(focus) = self.focus {
            focus.add(&mut plan, builder.experiment())?;
        }
        match builder.fork(self.origin.clone(), plan.clone(), dissent_actors::now_us()) {
            Ok(forked) => Ok((forked, plan)),
            Err(error @ (ForkError::WithinDecision { .. } | ForkError::Rejected(_))) => {
                Err(self.not_here(&error.to_string())?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the error for a position that cannot be forked. The error names the last one that can.
    fn not_here(&self, reason: &str) -> anyhow::Result<anyhow::Error> {
        let with = if self.settings.is_empty() { "" } else { " with these settings" };
        let last = fork_points::last_forkable(self.log, self.origin, self.name, self.settings, self.at)?;
        let way_out = match last {
            Some(point) => {
                format!("the last position that can be forked{with} is {point}: use --at {}", point.position)
            }
            None => format!("no position up to there can be forked{with}: start a new experiment"),
        };
        Ok(BadInput(format!("{reason}; {way_out}")).into())
    }

    fn begins_later(&self) -> anyhow::Result<anyhow::Error> {
        let first = self.log.read_stream(self.origin, 0, 1)?.first().map_or(1, |first| first.position);
        let (origin, at) = (self.origin, self.at.unwrap_or_default());
        Ok(BadInput(format!("experiment {origin} begins after position {at}: use --at {first} or later"))
            .into())
    }

    /// Writes the judgements that a fork with a focus can take over from its origin.
    fn judgements(&self, plan: &Plan, data_dir: &Path) -> anyhow::Result<Option<(PathBuf, usize)>> {
        let focus = plan.learning.as_ref().and_then(|learning| learning.feedback.focus.as_ref());
        let Some(round) = focus.filter(|_| self.focus.is_some()).map(|focus| focus.round) else {
            return Ok(None);
        };
        let Some(was) = recorded_plan(self.log, self.origin)? else { return Ok(None) };
        carried::write(self.log, (self.origin, &was), plan, round, data_dir)
    }

    /// Keeps the configuration of the origin with the settings of the fork. Returns whether there is one.
    fn keep_configuration(&self, plan: &Plan, data_dir: &Path) -> anyhow::Result<bool> {
        let kept = KeptConfigs::of(data_dir);
        let Some(source) = kept.find(self.origin)? else { return Ok(false) };
        let budget = plan.learning.as_ref().filter(|_| self.focus.is_some()).and_then(|l| l.feedback.budget);
        let settings = self.settings.iter().map(Setting::to_string);
        let budget = budget.map(|budget| format!("feedback.budget={budget}"));
        let name = format!("experiment.name={}", self.name);
        kept.keep(self.name, &source.with(std::iter::once(name).chain(settings).chain(budget)))?;
        Ok(true)
    }

    fn append_shared(&self) -> anyhow::Result<u64> {
        let mut builder = ForkBuilder::new(self.name.clone());
        let mut events = Vec::with_capacity(APPEND_EVENTS);
        self.each(&mut |recorded| {
            events.push(builder.share(recorded)?);
            if events.len() == APPEND_EVENTS {
                append(self.log, self.name, std::mem::take(&mut events))?;
            }
            Ok(())
        })?;
        append(self.log, self.name, events)?;
        Ok(builder.shared())
    }

    fn each(&self, visit: &mut dyn FnMut(&Recorded) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        history::each(self.log, self.origin, self.at, visit)
    }
}

fn append(log: &dyn EventLog, name: &ExperimentId, events: Vec<NewEvent>) -> anyhow::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    wait(log.append(Append { experiment: name.clone(), expected: ExpectedVersion::Any, events }))?;
    Ok(())
}

fn is_recorded(log: &dyn EventLog, event: &NewEvent) -> anyhow::Result<bool> {
    Ok(log.find(event.id)?.is_some_and(|recorded| recorded.event == *event))
}

fn exists(name: &ExperimentId) -> anyhow::Error {
    BadInput(format!("experiment {name} exists already: choose another name with --as")).into()
}
