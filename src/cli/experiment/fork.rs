//! `dissent experiment fork`: a new experiment that shares the past of another one.

use std::io::Write as _;

use anyhow::Context as _;
use dissent_domain::event::{NewEvent, Recorded};
use dissent_domain::fork::{ForkBuilder, ForkError};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::plan::Plan;
use dissent_storage::wait;
use serde_json::json;

use crate::error::BadInput;
use crate::history;
use crate::history::settings::{self, Scope, Setting};
use crate::log_access::open;

/// Events appended together.
const APPEND_EVENTS: usize = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment fork tone-demo --at 482 --as tone-budget --set conflict.rule=budget --set conflict.budget=40
  dissent experiment show tone-demo                the positions between which its rounds lie

The fork's stream stands by itself: it holds the shared events under its own name, then an event that says where they are from
and which plan holds from there on. To go on, give its name and the changed settings in a configuration, and
`dissent run CONFIG.toml`. What the fork samples from there on is drawn by its own name: it is another draw than the origin's.

A setting may be changed as long as nothing of the open round was made by it: what is sampled before completions are recorded,
what is selected before the selection is, and so on. Rounds that are closed stay as they were.")]
pub(super) struct ForkArgs {
    /// The experiment whose past is shared.
    experiment: ExperimentId,
    /// The last position of the log that is shared [default: the last event of the experiment]
    #[arg(long, value_name = "POSITION")]
    at: Option<u64>,
    /// Name of the fork.
    #[arg(long = "as", value_name = "NAME")]
    name: ExperimentId,
    /// A setting that differs, by its key in the configuration; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Setting>,
}

pub(super) fn run(log: &dyn EventLog, args: &ForkArgs, as_json: bool) -> anyhow::Result<()> {
    open::require_experiment(log, &args.experiment)?;
    if args.name == args.experiment {
        return Err(exists(&args.name));
    }
    let known = log.streams()?.iter().find(|(name, _)| *name == args.name).map_or(0, |(_, last)| *last);
    let (forked, plan) = prepare(log, args, known)?;
    let shared = append_shared(log, args)?;
    append(log, &args.name, vec![forked])?;
    let value = json!({ "experiment": args.name, "origin": args.experiment, "shared": shared, "plan": plan });
    let mut out = std::io::stdout().lock();
    if as_json {
        return Ok(writeln!(out, "{value}")?);
    }
    let settings: Vec<String> = args.set.iter().map(ToString::to_string).collect();
    let settings = if settings.is_empty() { String::new() } else { format!(" and {}", settings.join(", ")) };
    writeln!(out, "{} shares {shared} events with {}", args.name, args.experiment)?;
    writeln!(
        out,
        "to go on, set experiment.name = \"{}\"{settings} in its configuration: `dissent run CONFIG.toml`",
        args.name
    )?;
    Ok(())
}

/// Goes over the whole past before anything is written: the event that ends it, and the fork's plan.
fn prepare(log: &dyn EventLog, args: &ForkArgs, known: u64) -> anyhow::Result<(NewEvent, Plan)> {
    let mut forking = ForkBuilder::new(args.name.clone());
    let mut last = None;
    each(log, args, &mut |recorded| {
        let shared = forking.share(recorded).map_err(refused)?;
        // A fork that was interrupted is taken up again; anything else under its name is not touched.
        if recorded.version <= known && !is_recorded(log, &shared)? {
            return Err(exists(&args.name));
        }
        last = Some(recorded.position);
        Ok(())
    })?;
    let last = last.ok_or_else(|| {
        BadInput(format!("{} has no event up to that position: it begins later", args.experiment))
    })?;
    if known > forking.shared() {
        return Err(exists(&args.name));
    }
    if forking.experiment().is_over() {
        let over = if forking.experiment().is_finished() { "finished" } else { "cancelled" };
        let reason = format!(
            "{} is {over} at position {last}: share less of it, as with --at {}",
            args.experiment,
            last.saturating_sub(1)
        );
        return Err(BadInput(reason).into());
    }
    let plan = forking.experiment().plan().context("the past has no plan")?;
    let plan = settings::changed(plan, &args.set, Scope::Fork)?;
    let forked = forking.fork(args.experiment.clone(), plan.clone(), dissent_actors::now_us());
    Ok((forked.map_err(refused)?, plan))
}

fn append_shared(log: &dyn EventLog, args: &ForkArgs) -> anyhow::Result<u64> {
    let mut forking = ForkBuilder::new(args.name.clone());
    let mut events = Vec::with_capacity(APPEND_EVENTS);
    each(log, args, &mut |recorded| {
        events.push(forking.share(recorded).map_err(refused)?);
        if events.len() == APPEND_EVENTS {
            append(log, &args.name, std::mem::take(&mut events))?;
        }
        Ok(())
    })?;
    append(log, &args.name, events)?;
    Ok(forking.shared())
}

fn each(
    log: &dyn EventLog,
    args: &ForkArgs,
    visit: &mut dyn FnMut(&Recorded) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    history::each(log, &args.experiment, args.at, visit)
}

fn append(log: &dyn EventLog, name: &ExperimentId, events: Vec<NewEvent>) -> anyhow::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    wait(log.append(Append { experiment: name.clone(), expected: ExpectedVersion::Any, events }))?;
    Ok(())
}

fn is_recorded(log: &dyn EventLog, event: &NewEvent) -> anyhow::Result<bool> {
    Ok(log.find(event.id)?.is_some_and(|known| known.event == *event))
}

fn exists(name: &ExperimentId) -> anyhow::Error {
    BadInput(format!("there is an experiment {name} in the log already: give the fork another name")).into()
}

/// A past that is not sound is a damaged log; all else can be asked for otherwise.
fn refused(error: ForkError) -> anyhow::Error {
    match error {
        ForkError::Past(replay) => replay.into(),
        ForkError::WithinDecision { .. } | ForkError::Rejected(_) => BadInput(error.to_string()).into(),
        ForkError::Cause { .. } | ForkError::Codec(_) => error.into(),
    }
}
