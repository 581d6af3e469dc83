//! `dissent experiment show`: prints the plan and the rounds of an experiment.

use std::io::Write as _;

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use serde::Serialize;

use crate::history::overview::{CommandedBy, ExperimentHistory, Overview};
use crate::text::utc;
use crate::text::visible;

#[derive(Serialize)]
struct ShownExperiment<'a> {
    overview: &'a Overview,
    plan: &'a Plan,
}

pub(super) fn run(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    last: Option<u64>,
    as_json: bool,
) -> anyhow::Result<()> {
    let past = ExperimentHistory::read(log, experiment, last)?;
    let plan =
        past.experiment().plan().context("the experiment has no plan at this position: use a later --at")?;
    let overview = past.overview(experiment);
    let mut out = std::io::stdout().lock();
    if as_json {
        serde_json::to_writer_pretty(&mut out, &ShownExperiment { overview: &overview, plan })?;
        return Ok(writeln!(out)?);
    }
    print(&mut out, &overview)?;
    writeln!(out, "plan")?;
    for (key, value) in settings(plan)? {
        writeln!(out, "  {key:<44} {}", visible(&value))?;
    }
    print_rounds(&mut out, &overview)?;
    Ok(())
}

fn print(out: &mut impl std::io::Write, overview: &Overview) -> std::io::Result<()> {
    let Overview { experiment, state, rounds_closed, rounds_planned, events, state_hash, .. } = overview;
    writeln!(out, "{experiment}: {}, {rounds_closed} of {rounds_planned} rounds closed", state.words())?;
    if let Some(words) = overview.ordered.as_ref().and_then(CommandedBy::words) {
        writeln!(out, "  {} {words}", state.words())?;
    }
    if let Some(origin) = &overview.origin {
        let (name, position, shared) = (&origin.experiment, origin.position, origin.shared);
        writeln!(out, "  forked from {name} at position {position}, sharing {shared} events")?;
    }
    writeln!(
        out,
        "  {events} events from {} to {}, {} selected, {} judgements",
        utc(overview.started_us),
        utc(overview.last_us),
        overview.selected,
        overview.judgements
    )?;
    writeln!(out, "  state {state_hash}")
}

fn print_rounds(out: &mut impl std::io::Write, overview: &Overview) -> std::io::Result<()> {
    writeln!(
        out,
        "{:>5}  {:<10}  {:>9}  {:>11}  {:>8}  {:>8}  {:>9}  {:>10}  {:>9}  {:>8}  {:>8}  {:>8}",
        "round",
        "step",
        "opened at",
        "measured at",
        "prompts",
        "measured",
        "set aside",
        "tokens",
        "|PACS|",
        "tau",
        "selected",
        "judged"
    )?;
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    for round in &overview.rounds {
        writeln!(
            out,
            "{:>5}  {:<10}  {:>9}  {:>11}  {:>8}  {:>8}  {:>9}  {:>10}  {:>9}  {:>8}  {:>8}  {:>8}",
            round.round,
            round.at,
            round.opened_at,
            round.measured_at.map_or("-".to_owned(), |position| position.to_string()),
            round.prompts,
            round.measured,
            round.set_aside,
            round.tokens,
            figure(round.mean_abs_pacs),
            figure(round.kendall_tau),
            round.selected,
            format!("{}/{}", round.judgements, round.comparisons),
        )?;
    }
    Ok(())
}

/// Returns the values of a plan by their paths, without nulls.
fn settings(plan: &Plan) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    flatten("", &serde_json::to_value(plan)?, &mut found);
    Ok(found)
}

fn flatten(path: &str, value: &serde_json::Value, found: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, member, found);
            }
        }
        serde_json::Value::Null => {}
        serde_json::Value::String(text) => found.push((path.to_owned(), text.clone())),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::Array(_) => {
            found.push((path.to_owned(), value.to_string()));
        }
    }
}
