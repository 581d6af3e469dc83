//! `dissent experiment list`: prints state and progress of every experiment.

use std::io::Write as _;

use dissent_domain::log::EventLog;

use serde::Serialize;

use crate::experiment::kept_config::{Halt, KeptConfigs};
use crate::history::overview::{ExperimentHistory, Overview, State};
use crate::text::{utc, visible};

/// An experiment in the list.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    overview: Overview,
    /// Why the server halted it; `None` if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    halted: Option<Halt>,
}

pub(super) fn run(log: &dyn EventLog, kept: &KeptConfigs, as_json: bool) -> anyhow::Result<()> {
    let mut overviews = Vec::new();
    for (experiment, _) in log.streams()? {
        let overview = ExperimentHistory::read(log, &experiment, None)?.overview(&experiment);
        // A run that went on without the server has settled the matter.
        let is_over = matches!(overview.state, State::Finished | State::Stopped | State::Cancelled);
        let halted = kept.halted(&experiment)?.filter(|_| !is_over);
        overviews.push(Row { overview, halted });
    }
    let mut out = std::io::stdout().lock();
    if as_json {
        serde_json::to_writer_pretty(&mut out, &overviews)?;
        return Ok(writeln!(out)?);
    }
    if overviews.is_empty() {
        return Ok(writeln!(
            out,
            "no experiments: start one with `dissent run CONFIG.toml`, or record one with `dissent experiment create CONFIG.toml`"
        )?);
    }
    let width = overviews.iter().map(|row| row.overview.experiment.as_str().len()).max().unwrap_or(0).max(10);
    writeln!(
        out,
        "{:<width$}  {:<16}  {:>7}  {:<22}  {:>8}  {:>10}  {:>9}  started",
        "experiment", "state", "rounds", "step", "selected", "judgements", "events"
    )?;
    for Row { overview, halted } in &overviews {
        let rounds = format!("{}/{}", overview.rounds_closed, overview.rounds_planned);
        writeln!(
            out,
            "{:<width$}  {:<16}  {rounds:>7}  {:<22}  {:>8}  {:>10}  {:>9}  {}",
            overview.experiment.as_str(),
            if halted.is_some() { "halted" } else { overview.state.words() },
            current_step(overview),
            overview.selected,
            overview.judgements,
            overview.events,
            utc(overview.started_us),
        )?;
    }
    for Row { overview, halted } in &overviews {
        let Some(Halt { reason, at_us }) = halted else { continue };
        let (name, since, reason) = (&overview.experiment, utc(*at_us), visible(reason));
        writeln!(
            out,
            "{name} is halted since {since}: {reason}\n  to go on: dissent experiment retry {name}"
        )?;
    }
    Ok(())
}

/// Returns the step of the open round with its progress, or `-` if no round is open.
fn current_step(overview: &Overview) -> String {
    match overview.rounds.last() {
        Some(round) if round.at == "conflict" => {
            format!("conflict {}/{}", round.measured + round.set_aside, round.prompts)
        }
        Some(round) if round.at == "feedback" => {
            format!("feedback {}/{}", round.judgements, round.comparisons)
        }
        Some(round) if round.at != "closed" => round.at.to_owned(),
        _ => "-".to_owned(),
    }
}
