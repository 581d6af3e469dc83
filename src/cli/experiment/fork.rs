//! `dissent experiment fork`: creates an experiment that shares the history of another one.

use std::io::Write as _;

use anyhow::Context as _;
use dissent_domain::event::{NewEvent, Recorded};
use dissent_domain::fork::ForkBuilder;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::plan::Plan;
use dissent_storage::wait;
use serde_json::json;

use crate::error::BadInput;
use crate::history;
use crate::history::settings::{self, Scope, Setting};
use crate::log_access::open;

/// Events of one append.
const APPEND_EVENTS: usize = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment fork tone-demo --at 482 --as tone-budget --set conflict.rule=budget --set conflict.budget=40
  dissent experiment show tone-demo                shows the positions of its rounds

The fork's stream is complete: it holds the shared events under its own name, then an event with their origin and the new plan.
To continue the fork, put its name and the changed settings into a configuration and run `dissent run CONFIG.toml`. Seeds depend
on the name, so the fork samples other completions than its origin.

A setting may change until the open round has used it. For example, sampling settings may change until completions are
recorded, and selection settings until the selection. Closed rounds do not change.")]
pub(super) struct ForkArgs {
    /// Experiment whose history is shared.
    experiment: ExperimentId,
    /// Last shared position of the log [default: the last event of the experiment]
    #[arg(long, value_name = "POSITION")]
    at: Option<u64>,
    /// Name of the fork.
    #[arg(long = "as", value_name = "NAME")]
    name: ExperimentId,
    /// Changed setting, by its key in the configuration; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Setting>,
}

pub(super) fn run(log: &dyn EventLog, args: &ForkArgs, as_json: bool) -> anyhow::Result<()> {
    open::require_experiment(log, &args.experiment)?;
    if args.name == args.experiment {
        return Err(exists(&args.name));
    }
    let recorded = log.streams()?.iter().find(|(name, _)| *name == args.name).map_or(0, |(_, last)| *last);
    let (forked, plan) = prepare(log, args, recorded)?;
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
        "to continue it: set experiment.name = \"{}\"{settings} in the configuration, then `dissent run CONFIG.toml`",
        args.name
    )?;
    Ok(())
}

/// Checks the whole shared history before anything is written. Returns the event that ends the history, and
/// the fork's plan. `recorded` is the number of events that the log has under the fork's name.
fn prepare(log: &dyn EventLog, args: &ForkArgs, recorded: u64) -> anyhow::Result<(NewEvent, Plan)> {
    let mut builder = ForkBuilder::new(args.name.clone());
    let mut last = None;
    each(log, args, &mut |event| {
        let shared = builder.share(event)?;
        // An interrupted fork resumes. Another experiment of this name is an error.
        if event.version <= recorded && !is_recorded(log, &shared)? {
            return Err(exists(&args.name));
        }
        last = Some(event.position);
        Ok(())
    })?;
    let last = last.ok_or_else(|| {
        let at = args.at.unwrap_or_default();
        BadInput(format!("experiment {} begins after position {at}: use a later --at", args.experiment))
    })?;
    if recorded > builder.shared() {
        return Err(exists(&args.name));
    }
    if builder.experiment().is_over() {
        let over = if builder.experiment().is_finished() { "finished" } else { "cancelled" };
        let reason = format!(
            "experiment {} is {over} at position {last}: use an earlier --at, such as {}",
            args.experiment,
            last.saturating_sub(1)
        );
        return Err(BadInput(reason).into());
    }
    let plan = builder.experiment().plan().context("the shared events have no plan")?;
    let plan = settings::changed(plan, &args.set, Scope::Fork)?;
    let forked = builder.fork(args.experiment.clone(), plan.clone(), dissent_actors::now_us());
    Ok((forked?, plan))
}

fn append_shared(log: &dyn EventLog, args: &ForkArgs) -> anyhow::Result<u64> {
    let mut builder = ForkBuilder::new(args.name.clone());
    let mut events = Vec::with_capacity(APPEND_EVENTS);
    each(log, args, &mut |recorded| {
        events.push(builder.share(recorded)?);
        if events.len() == APPEND_EVENTS {
            append(log, &args.name, std::mem::take(&mut events))?;
        }
        Ok(())
    })?;
    append(log, &args.name, events)?;
    Ok(builder.shared())
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
    Ok(log.find(event.id)?.is_some_and(|recorded| recorded.event == *event))
}

fn exists(name: &ExperimentId) -> anyhow::Error {
    BadInput(format!("experiment {name} exists already: choose another name with --as")).into()
}
