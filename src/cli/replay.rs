//! `dissent replay`: rebuilds experiments from their events, verifies their decisions and recomputes their
//! results. It also compares the recorded selection with that of other settings.

mod recompute;
mod verify;
mod what_if;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::replay::Replay;
use dissent_domain::round::{PromptProgress, Round};
use dissent_storage::{SNAPSHOT_EVENTS, Snapshots};
use serde::Serialize;

use crate::cli::experiment_arg::{self, ExperimentArg};
use crate::cli::point_args::PointArgs;
use crate::config::ExperimentConfig;
use crate::error::BadInput;
use crate::experiment::start;
use crate::history::{self, settings::Setting};
use crate::log_access::open::{self, ReadLog};

/// Rebuild experiments from their events, verify or recompute them, or select with other settings
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent replay tone-demo                  the state after all events
  dissent replay experiment.toml --verify   the experiment of a configuration, in its data folder
  dissent replay tone-demo --before selection   the state before the last selection; also --at POSITION
  dissent replay tone-demo --verify         measure, select and decide again, and compare with the record
  dissent replay --verify                   the same for every experiment of the log
  dissent replay --recompute experiment.toml   run every model again, and compare with the record
  dissent replay tone-demo --what-if conflict.delta=1.5
  dissent replay tone-demo --what-if conflict.rule=budget --what-if conflict.budget=20 --json

--verify checks the encoding of each event, its position and version, its id, and that its cause precedes it. The rules must allow
the event, and every pure decision must be the same when made again. The command prints the first fault of each experiment with
its position. A snapshot that does not follow from the events is a fault, and is deleted. With a fault the exit code is 3.

--recompute samples, scores, trains and evaluates again with the models and settings of the configuration. It compares every recorded
result byte for byte. Each training runs without interruption, and people's judgements come from the log. The command takes
about as long as the original model runs took, and writes nothing to the log. If a result differs, the exit code is 3.

--what-if repeats the selection of each round on the recorded scores, with other settings:
  conflict.rule, .delta, .tau, .budget, .quantile, .logprob; feedback.opponent, .overlap, .budget
It shows the completions that would have been compared, the cost, and the overlap with the recorded selection. No model runs. From the
second round on, the scores come from models that learnt from the recorded judgements. `KEY=` unsets a setting.")]
pub(crate) struct ReplayArgs {
    /// Name of the experiment, or its configuration; with --verify it may be left out to check every
    /// experiment of the log.
    #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: Option<ExperimentArg>,
    #[command(flatten)]
    point: PointArgs,
    /// Recompute every pure decision from the recorded inputs, and compare it with the record.
    #[arg(long)]
    verify: bool,
    /// Run every model again with this configuration, and compare the results with the record.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "CONFIG.toml", conflicts_with_all = ["verify", "what_if", "at", "before"])]
    recompute: Option<PathBuf>,
    /// Select again with this setting; repeat the option for further settings.
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "verify")]
    what_if: Vec<Setting>,
    /// Maximum number of prompts with different selections to list per round.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "what_if")]
    top: usize,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl ReplayArgs {
    fn options(&self, at: Option<u64>) -> what_if::Options<'_> {
        what_if::Options { at, settings: &self.what_if, top: self.top, json: self.json }
    }
}

#[derive(Serialize)]
struct Outcome {
    experiment: String,
    events: u64,
    checked: u64,
    finished: bool,
    state_hash: String,
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

pub(crate) fn run(data_dir: Option<&Path>, args: &ReplayArgs) -> anyhow::Result<()> {
    // The configuration of a recomputation names its experiment, too.
    // A recomputation finds the data folder through its configuration.
    let configured = args.recompute.as_deref().map(ExperimentConfig::load).transpose()?;
    let data_dir = data_dir.or(configured.as_ref().and_then(|experiment| experiment.data_dir.as_deref()));
    let named = args.experiment.clone().or_else(|| args.recompute.clone().map(ExperimentArg::Config));
    let (experiment, data_dir) = experiment_arg::optional(named.as_ref(), data_dir)?;
    let data_dir = data_dir.as_path();
    let Some(experiment) = &experiment else {
        if !args.verify {
            let reason = "no experiment named: name one, or use --verify to check all of them";
            return Err(BadInput(reason.to_owned()).into());
        }
        let at = args.point.of_whole_log()?;
        let log = open::read_log(data_dir)?;
        return verify::run(&*log, &snapshots(data_dir, &log), at, args.json);
    };
    let log = open::read_log(data_dir)?;
    open::require_experiment(&*log, experiment)?;
    let at = args.point.position(&*log, experiment)?;
    if !args.what_if.is_empty() {
        return what_if::run(&*log, experiment, &args.options(at));
    }
    if let Some(config) = &args.recompute {
        return recompute::run(log.shared(), data_dir, experiment, config, args.json);
    }
    let begun = Instant::now();
    let replay = if args.verify {
        let mut replay = Replay::verifying();
        verify::each(&*log, &snapshots(data_dir, &log), experiment, at, &mut replay)?;
        replay
    } else {
        replay(&*log, &snapshots(data_dir, &log), experiment, at)?
    };
    let outcome = outcome(&replay, experiment, begun.elapsed().as_secs_f64());
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &outcome)?;
        return Ok(writeln!(out)?);
    }
    print(&mut out, &outcome, &replay)?;
    Ok(())
}

fn snapshots(data_dir: &Path, log: &ReadLog) -> Snapshots {
    let folder = start::snapshots_folder(data_dir);
    if log.is_remote() { Snapshots::read_only(folder) } else { Snapshots::new(folder) }
}

fn replay(
    log: &dyn EventLog,
    snapshots: &Snapshots,
    experiment: &ExperimentId,
    last: Option<u64>,
) -> anyhow::Result<Replay> {
    if last.is_none() {
        return Ok(snapshots.resume(log, experiment, SNAPSHOT_EVENTS)?);
    }
    let mut replay = Replay::new();
    history::each(log, experiment, last, &mut |recorded| Ok(replay.apply(recorded)?))?;
    Ok(replay)
}

fn outcome(replay: &Replay, experiment: &ExperimentId, seconds: f64) -> Outcome {
    Outcome {
        experiment: experiment.to_string(),
        events: replay.version(),
        checked: replay.checked(),
        finished: replay.experiment().is_finished(),
        state_hash: replay.experiment().state_hash(),
        seconds,
        events_per_second: replay.version() as f64 / seconds.max(1e-9),
        rounds: replay.experiment().rounds().iter().map(RoundState::from).collect(),
    }
}

fn print(out: &mut impl std::io::Write, outcome: &Outcome, replay: &Replay) -> std::io::Result<()> {
    let state = match (outcome.finished, replay.experiment().cancelled()) {
        (true, _) => "finished",
        (false, Some(_)) => "cancelled",
        (false, None) => "in progress",
    };
    writeln!(
        out,
        "{}: {} events, {state}, state {}",
        outcome.experiment, outcome.events, outcome.state_hash
    )?;
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
            "verified: the rules decide the same {} events from the recorded inputs",
            outcome.checked
        )?;
    }
    Ok(())
}
