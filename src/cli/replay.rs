//! `dissent replay`: rebuilds an experiment from its events alone, and checks every decision in it.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::replay::Replay;
use dissent_domain::round::{PromptProgress, Round};
use serde::Serialize;

use super::open_log;

/// Rebuild an experiment from its events alone
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent replay tone-demo                  the state as the events make it
  dissent replay tone-demo --at 120         the state as of position 120 of the log
  dissent replay tone-demo --verify         measure, select and conclude again, and compare with what was recorded")]
pub(crate) struct ReplayArgs {
    /// Name of the experiment.
    experiment: ExperimentId,
    /// Stop after this position of the log.
    #[arg(long, value_name = "POSITION")]
    at: Option<u64>,
    /// Make every pure decision again from the recorded inputs, and compare.
    #[arg(long)]
    verify: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Events read at once.
const PAGE: usize = 2048;

#[derive(Serialize)]
struct Outcome {
    experiment: String,
    events: u64,
    checked: u64,
    finished: bool,
    seconds: f64,
    events_per_second: f64,
    rounds: Vec<RoundState>,
}

#[derive(Serialize)]
struct RoundState {
    round: u32,
    prompts: u32,
    admitted: u32,
    sampled: u32,
    scored: u32,
    measured: u32,
    set_aside: u32,
    completions: u64,
    tokens: u64,
    selected: u32,
    mean_abs_pacs: Option<f64>,
    kendall_tau: Option<f64>,
    closed: bool,
}

impl From<&Round> for RoundState {
    fn from(round: &Round) -> Self {
        let counts = round.counts();
        Self {
            round: round.number(),
            prompts: counts.expected,
            admitted: counts.admitted,
            sampled: counts.sampled,
            scored: counts.scored,
            measured: counts.measured,
            set_aside: counts.set_aside,
            completions: counts.completions,
            tokens: counts.tokens,
            selected: counts.selected,
            mean_abs_pacs: round.evaluation().and_then(|evaluation| evaluation.mean_abs_pacs),
            kendall_tau: round.evaluation().and_then(|evaluation| evaluation.kendall_tau),
            closed: round.is_closed(),
        }
    }
}

pub(crate) fn run(data_dir: &Path, args: &ReplayArgs) -> anyhow::Result<()> {
    let log = open_log(data_dir)?;
    super::require_experiment(&log, &args.experiment)?;
    let begun = Instant::now();
    let replay = replay(&log, args)?;
    let outcome = outcome(&replay, args, begun.elapsed().as_secs_f64());
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &outcome)?;
        return Ok(writeln!(out)?);
    }
    print(&mut out, &outcome, &replay)?;
    Ok(())
}

fn replay(log: &dyn EventLog, args: &ReplayArgs) -> anyhow::Result<Replay> {
    let mut replay = if args.verify { Replay::verifying() } else { Replay::new() };
    let last = args.at.unwrap_or(u64::MAX);
    loop {
        let page = log.read_stream(&args.experiment, replay.version(), PAGE)?;
        for recorded in &page {
            if recorded.position > last {
                return Ok(replay);
            }
            replay.apply(recorded)?;
        }
        if page.len() < PAGE {
            return Ok(replay);
        }
    }
}

fn outcome(replay: &Replay, args: &ReplayArgs, seconds: f64) -> Outcome {
    Outcome {
        experiment: args.experiment.to_string(),
        events: replay.version(),
        checked: replay.checked(),
        finished: replay.experiment().is_finished(),
        seconds,
        events_per_second: replay.version() as f64 / seconds.max(1e-9),
        rounds: replay.experiment().rounds().iter().map(RoundState::from).collect(),
    }
}

fn print(out: &mut impl std::io::Write, outcome: &Outcome, replay: &Replay) -> std::io::Result<()> {
    let state = if outcome.finished { "finished" } else { "in progress" };
    writeln!(out, "{}: {} events, {state}", outcome.experiment, outcome.events)?;
    for (shown, round) in outcome.rounds.iter().zip(replay.experiment().rounds()) {
        writeln!(
            out,
            "round {}: {} prompts, {} sampled, {} scored, {} measured, {} set aside, {} pairs selected{}",
            shown.round,
            shown.prompts,
            shown.sampled,
            shown.scored,
            shown.measured,
            shown.set_aside,
            shown.selected,
            if shown.closed { "" } else { ", open" }
        )?;
        for (prompt_id, progress) in round.prompts() {
            if let PromptProgress::SetAside(step) = progress {
                writeln!(out, "  {prompt_id}: set aside by the {} step", step.name())?;
            }
        }
    }
    if outcome.checked > 0 {
        writeln!(
            out,
            "verified: {} events are what the rules decide from the recorded inputs",
            outcome.checked
        )?;
    }
    Ok(())
}
