//! `dissent experiment list`: prints state and progress of every experiment.

use std::io::Write as _;

use dissent_domain::log::EventLog;

use crate::history::overview::{ExperimentHistory, Overview};
use crate::text::utc;

pub(super) fn run(log: &dyn EventLog, as_json: bool) -> anyhow::Result<()> {
    let mut overviews = Vec::new();
    for (experiment, _) in log.streams()? {
        overviews.push(ExperimentHistory::read(log, &experiment, None)?.overview(&experiment));
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
    let width =
        overviews.iter().map(|overview| overview.experiment.as_str().len()).max().unwrap_or(0).max(10);
    writeln!(
        out,
        "{:<width$}  {:<16}  {:>7}  {:<22}  {:>8}  {:>10}  {:>9}  started",
        "experiment", "state", "rounds", "step", "selected", "judgements", "events"
    )?;
    for overview in &overviews {
        let rounds = format!("{}/{}", overview.rounds_closed, overview.rounds_planned);
        writeln!(
            out,
            "{:<width$}  {:<16}  {rounds:>7}  {:<22}  {:>8}  {:>10}  {:>9}  {}",
            overview.experiment.as_str(),
            overview.state.words(),
            current_step(overview),
            overview.selected,
            overview.judgements,
            overview.events,
            utc(overview.started_us),
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
