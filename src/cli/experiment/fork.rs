//! `dissent experiment fork`: creates an experiment that shares the history of another one.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::event::{NewEvent, Recorded};
use dissent_domain::fork::{ForkBuilder, ForkError};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::plan::Plan;
use dissent_storage::wait;
use serde_json::json;

use super::carried;
use super::focus::{Focus, FocusArgs};
use crate::cli::experiment_arg::{ExperimentArg, Target};
use crate::cli::paths;
use crate::cli::point_args::PointArgs;
use crate::error::BadInput;
use crate::experiment::plan_check::recorded_plan;
use crate::history::settings::{self, Scope, Setting};
use crate::history::{self, fork_points};
use crate::log_access::open;
use crate::text::{shell_command, shell_word};

/// Events of one append.
const APPEND_EVENTS: usize = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment fork tone-demo --before selection --as tone-budget --set conflict.rule=budget --set conflict.budget=40
  dissent experiment fork experiment.toml --round 0 --before tuning --as tone-beta --set tuning.beta=0.3
  dissent run experiment.toml --set experiment.name=tone-beta --set tuning.beta=0.3     continues the fork
  dissent experiment fork tone-demo --focus salt --as tone-salt           ask 20 more pairs about the topic with this word
  dissent experiment show tone-demo                shows the positions of its rounds, for --at

The fork's stream is complete: it holds the shared events under its own name, then an event with their origin and the new plan.
To continue the fork, run the configuration with its name and the changed settings; the command prints how. A fork draws the same
random numbers as its origin. Forks of experiments of version 0.1 draw others: those seeds depend on the name.

--focus keeps the pairs that rule and audit select, and adds pairs from the named prompts. Judgements of people that the origin
has are written to a file, which `dissent feedback import` reads once the fork has made its selection.

A setting may change until the open round has used it. For example, sampling settings may change until completions are
recorded (--before generation), and selection settings until the selection (--before selection). Closed rounds do not change.
If a position cannot be forked, the error names the last one that can.")]
pub(super) struct ForkArgs {
    /// Experiment whose history is shared, by name or configuration.
    #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: ExperimentArg,
    #[command(flatten)]
    point: PointArgs,
    #[command(flatten)]
    focus: FocusArgs,
    /// Name of the fork.
    #[arg(long = "as", value_name = "NAME")]
    name: ExperimentId,
    /// Changed setting, by its key in the configuration; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Setting>,
}

/// The fork to make.
struct Fork<'a> {
    log: &'a dyn EventLog,
    origin: &'a ExperimentId,
    name: &'a ExperimentId,
    settings: &'a [Setting],
    focus: Option<&'a Focus>,
    /// The last shared position; all events if `None`.
    at: Option<u64>,
}

pub(super) fn run(data_dir: Option<&Path>, args: &ForkArgs, as_json: bool) -> anyhow::Result<()> {
    let Target { experiment: origin, data_dir } = args.experiment.target(data_dir)?;
    let log = open::open_log(&data_dir)?;
    open::require_experiment(&log, &origin)?;
    if args.name == origin {
        return Err(exists(&args.name));
    }
    let focus = args.focus.find(&log, &origin)?;
    let at = match args.point.position(&log, &origin)? {
        None if !args.point.is_given() => args.focus.position(&log, &origin)?,
        at => at,
    };
    let fork =
        Fork { log: &log, origin: &origin, name: &args.name, settings: &args.set, focus: focus.as_ref(), at };
    let recorded = log.streams()?.iter().find(|(name, _)| *name == args.name).map_or(0, |(_, last)| *last);
    let (forked, plan) = fork.prepare(recorded)?;
    let shared = fork.append_shared()?;
    append(&log, &args.name, vec![forked])?;
    let judgements = fork.judgements(&plan, &data_dir)?;
    let value = json!({
        "experiment": args.name, "origin": origin, "shared": shared, "plan": plan,
        "judgements": judgements.as_ref().map(|(path, _)| path),
    });
    let mut out = std::io::stdout().lock();
    if as_json {
        return Ok(writeln!(out, "{value}")?);
    }
    writeln!(out, "{} shares {shared} events with {origin}", args.name)?;
    if let Some(focus) = &focus {
        writeln!(out, "it asks {}", focus.description())?;
    }
    writeln!(out, "to continue it: {}{}", args.run_command(&plan), paths::data_option(&data_dir))?;
    if let Some((path, count)) = judgements {
        let (path, data) = (paths::shortened(&path), paths::data_option(&data_dir));
        writeln!(
            out,
            "then take over the {} of {origin}: dissent feedback import {}{data}",
            crate::text::count(count as u64, "judgement"),
            shell_word(&path.to_string_lossy()),
        )?;
    }
    Ok(())
}

impl ForkArgs {
    /// Returns the command that continues the fork, without its data folder. A focus raises the budget of
    /// judgements, if there is one.
    fn run_command(&self, plan: &Plan) -> String {
        let config = match &self.experiment {
            ExperimentArg::Config(path) => path.to_string_lossy().into_owned(),
            ExperimentArg::Name(_) => "CONFIG.toml".to_owned(),
        };
        let name = format!("experiment.name={}", self.name);
        let budget = plan.learning.as_ref().filter(|_| self.focus.is_given()).and_then(|l| l.feedback.budget);
        let settings = std::iter::once(name).chain(self.set.iter().map(Setting::to_string));
        let settings = settings.chain(budget.map(|budget| format!("feedback.budget={budget}")));
        let options = settings.flat_map(|setting| ["--set".to_owned(), setting]);
        let words: Vec<String> =
            ["dissent".to_owned(), "run".to_owned(), config].into_iter().chain(options).collect();
        shell_command(words.iter().map(String::as_str))
    }
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
