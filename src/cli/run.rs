//! `dissent run`: runs an experiment to its end, in the foreground.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dissent_actors::Ending;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::operator::ExperimentStatus;
use dissent_domain::replay::Replay;

use super::runtime_args::{OverrideArgs, RuntimeOverrides};
use crate::cli::server;
use crate::cli::{paths, suggestion};
use crate::client::Server;
use crate::config::{Config, ConfigSource};
use crate::error::BadInput;
use crate::experiment::run::{Run, run_experiment};
use crate::forecast;
use crate::history::overview::{CommandedBy, ExperimentHistory};
use crate::history::suggested_fork::SuggestedFork;
use crate::log_access::open;
use crate::progress::ProgressView;
use crate::report;
use crate::telemetry::LogFormat;

/// Interval at which a run looks at the server that it follows.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for a server that has stopped, or does not know the experiment.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which it prints the progress of that server.
const SHOW_INTERVAL: Duration = Duration::from_secs(10);

/// Run an experiment to its end, or resume it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent run experiment.toml
  dissent run experiment.toml --provider cuda
  dissent run experiment.toml --set experiment.name=tone-gap --set conflict.rule=gap --seed 7
  DISSENT_LOG=info dissent run experiment.toml 2> run.log

Configuration (* marks required keys; relative paths start at the folder of the file, `cache:` paths at the cache folder):
  [experiment]  name*, seed = 0, rounds = 1, data_dir
  [prompts]     path*: rows of {\"prompt_id\"?, \"prompt\", \"system\"?, \"category\"?}; a prompt is a text or a list of {\"role\",
                \"content\"}; ignore = []: further fields of the rows, which are errors otherwise
  [policy]      path*, adapter, template = \"chat\", weights = \"f32\" (or \"as-stored\", \"int8\"; what samples)
  [reward]      path*, layers, adapter, template = \"chat\", kind = \"reward\" or \"cost\"; of a model with several outputs
                label or weights = [W, …]
  [generation]  samples = 8, temperature = 0.7, top_p = 1.0, top_k = 0, max_new_tokens = 128, batch_prompts = 4,
                stop = []: texts that end a completion
  [conflict]    rule = \"paper\" (delta, tau), \"mean\" (delta), \"quantile\" (quantile = 0.9), or with a budget \"budget\", \"gap\",
                \"discordant\", \"doubt\", \"equal_margin\", \"gap_and_margin\", \"margin\", \"rso\", \"random\"; \"all\", \"none\";
                logprob = \"sum\" or \"mean\"
  [broker]      kind = \"embedded\" or \"rabbitmq\"; [artifacts] url, cache_gib: see dissent serve --help
  [runtime]     provider = \"auto\", \"cpu\" or \"cuda\", threads = 0, onnxruntime

With [feedback] a round continues: the selected pairs are judged, the reward model is refined, the policy is tuned and evaluated:
  [feedback]    source* = \"oracle\" (needs [gold]) or \"people\", opponent = \"conflict\", \"margin\", \"matched\" or \"random\",
                overlap = 1, budget
  [gold]        kind* = \"sentiment\"; \"answers\" with path*: JSON Lines of {\"prompt_id\", \"answer\"}; or \"model\" with path*,
                layers, adapter, template = \"chat\", score = \"reward\" or \"cost\", label or weights as in [reward]
  [refinement]  data (the original preferences), format, preferred, and the keys of a training
  [tuning]*     method = \"dpo\", \"rso\", \"ppo\", \"grpo\" or \"rloo\", beta = 0.1, loss = \"sigmoid\", ppo.*, and the keys of a training
  [evaluation]* prompts* (held out), samples
  [guards]      kl_max, gold_patience, stop_on_reward_hacking = false, agreement_drop = 0.05
  a training    learning_rate, schedule = \"linear\", warmup_steps, warmup_ratio, epochs = 1, steps, batch_size = 8,
                gradient_accumulation = 1, max_length = 512, weight_decay = 0, max_grad_norm = 1, adam_betas, adam_epsilon,
                lora.r, lora.alpha, lora.targets, full = false, recompute = false, seed

If a server has the data folder, the command hands the experiment to it and follows.
The command starts a created experiment. A paused experiment stays paused until `dissent experiment resume NAME`.

Press Ctrl-C to stop: work in progress is finished, or abandoned after a second Ctrl-C. Finished work is kept, and the same command
resumes. The result is the same as without the stop.")]
pub(crate) struct RunArgs {
    /// Configuration of the experiment.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    config: PathBuf,
    #[command(flatten)]
    overrides: OverrideArgs,
    #[command(flatten)]
    runtime: RuntimeOverrides,
    /// Prompts in one batch, which changes the speed but not the result. Overrides the configuration.
    #[arg(long)]
    batch_prompts: Option<usize>,
    /// Wait for people's judgements instead of ending.
    #[arg(long)]
    wait: bool,
    /// Check everything that the run reads, and predict its time, memory, disk and labels. The models run for
    /// a few seconds, and the data folder does not change.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(data_dir: Option<&Path>, format: LogFormat, args: &RunArgs) -> anyhow::Result<()> {
    let config = configured(args)?;
    let data_dir = paths::data_dir(data_dir.or(config.experiment.data_dir.as_deref()));
    if args.dry_run {
        let forecast = forecast::of_run(&config, &data_dir, true).map_err(|error| {
            suggestion::with_fork(error, &data_dir, |name| suggestion::this_command(&["--set", name]))
        })?;
        return forecast.show(&config, args.json);
    }
    let source = ConfigSource::read(&args.config, &args.overrides.all())?;
    let view = ProgressView::new(format);
    let run = match server::of_data_folder(&data_dir)? {
        Some(server) => follow(&server, &config, &source, &data_dir, args.wait, &view),
        None => run_experiment(&config, &source, &data_dir, args.wait, &view),
    };
    let Run { ending, experiment, log } = run.map_err(|error| {
        suggestion::with_fork(error, &data_dir, |name| suggestion::this_command(&["--set", name]))
    })?;
    drop(view);
    match ending {
        Ending::Finished => conclude(&*log, &experiment, &data_dir, args.json),
        Ending::WaitsForPeople => print_feedback_commands(&*log, &experiment, &data_dir),
        Ending::Paused => print_resume_commands(&*log, &experiment, &data_dir),
        Ending::Cancelled => Err(BadInput(cancelled_text(&*log, &experiment, &data_dir)?).into()),
    }
}

/// Hands the experiment to a running server, and follows it until it ends or waits for people.
fn follow(
    server: &Server,
    config: &Config,
    source: &ConfigSource,
    data_dir: &Path,
    waits_for_people: bool,
    view: &ProgressView,
) -> anyhow::Result<Run> {
    let experiment = config.experiment.name.clone();
    view.print_line("a server has the data folder: handing the experiment to it");
    server.run(&experiment, source)?;
    view.print_line("the server runs the experiment; Ctrl-C ends this command, and the server continues");
    let mut shown = (Instant::now(), 0);
    let (mut last_answer, mut is_told) = (Instant::now(), false);
    let ending = loop {
        std::thread::sleep(FOLLOW_INTERVAL);
        let Some(row) = server.hosted(&experiment)? else {
            if !is_told {
                view.print_line("the server does not answer: waiting for it");
                is_told = true;
            }
            let silence = ANSWER_TIMEOUT.as_secs();
            anyhow::ensure!(
                last_answer.elapsed() < ANSWER_TIMEOUT,
                "the server has not answered for {silence} s: start it again with `dissent serve`; it then continues the experiment"
            );
            continue;
        };
        (last_answer, is_told) = (Instant::now(), false);
        if let Some(halt) = row.halted {
            let reason = format!("the server has halted the experiment: {}", halt.reason);
            return Err(anyhow::anyhow!(reason).context("retry with `dissent experiment retry`"));
        }
        let events = row.events.unwrap_or_default();
        if events != shown.1 && shown.0.elapsed() >= SHOW_INTERVAL {
            view.print_line(&format!("{events} events"));
            shown = (Instant::now(), events);
        }
        match row.status {
            Some(ExperimentStatus::Finished) => break Ending::Finished,
            Some(ExperimentStatus::Cancelled) => break Ending::Cancelled,
            Some(ExperimentStatus::Paused) => break Ending::Paused,
            Some(_) if row.waits_for_people && !waits_for_people => break Ending::WaitsForPeople,
            Some(ExperimentStatus::Created | ExperimentStatus::Running) | None => {}
        }
    };
    Ok(Run { ending, experiment, log: open::read_log(data_dir)?.shared() })
}

fn configured(args: &RunArgs) -> anyhow::Result<Config> {
    let mut config = Config::load_with(&args.config, &args.overrides.all())?;
    args.runtime.apply(&mut config.runtime);
    config.generation.batch_prompts = args.batch_prompts.unwrap_or(config.generation.batch_prompts);
    config.validate()?;
    Ok(config)
}

/// Prints the number of open comparisons, and the commands by which people judge them.
fn print_feedback_commands(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    data_dir: &Path,
) -> anyhow::Result<()> {
    let mut replay = Replay::new();
    for recorded in log.read_stream(experiment, 0, usize::MAX)? {
        replay.apply(&recorded)?;
    }
    let comparisons =
        replay.experiment().rounds().last().map_or(0, |round| round.learning().comparisons().len());
    let option = paths::data_option(data_dir);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{comparisons} comparisons wait for people's judgements.\n\
         make the page:  dissent feedback export {experiment} --format html --output judge.html{option}\n\
         read its file:  dissent feedback import FILE{option}    (the file that the page saves)\n\
         until then:     dissent report {experiment}{option}\n\
         then continue:  {}",
        suggestion::this_command(&[])
    )?;
    Ok(())
}

/// Prints the operator who paused the experiment, and the commands that resume it.
fn print_resume_commands(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    data_dir: &Path,
) -> anyhow::Result<()> {
    let history = ExperimentHistory::read(log, experiment, None)?;
    let by_whom = CommandedBy::of(history.experiment()).and_then(|command| command.words());
    let option = paths::data_option(data_dir);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{experiment} is paused{}\nto resume:  dissent experiment resume {experiment}{option} && {}",
        by_whom.map_or_else(String::new, |by_whom| format!(" {by_whom}")),
        suggestion::this_command(&[])
    )?;
    Ok(())
}

fn cancelled_text(log: &dyn EventLog, experiment: &ExperimentId, data_dir: &Path) -> anyhow::Result<String> {
    let history = ExperimentHistory::read(log, experiment, None)?;
    let by_whom = CommandedBy::of(history.experiment()).and_then(|command| command.words());
    let by_whom = by_whom.map_or_else(String::new, |by_whom| format!(" {by_whom}"));
    let Some(fork) = SuggestedFork::with(log, experiment, Vec::new())? else {
        return Ok(format!("{experiment} was cancelled{by_whom}: change the name in the configuration"));
    };
    let name = format!("experiment.name={}", fork.name);
    Ok(format!(
        "{experiment} was cancelled{by_whom}: change the name in the configuration, or fork it:\n  {}\n  {}",
        suggestion::fork_command(&fork, data_dir),
        suggestion::this_command(&["--set", &name])
    ))
}

fn conclude(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    data_dir: &Path,
    json: bool,
) -> anyhow::Result<()> {
    let data = report::ReportData::from_log(log, experiment, None)?;
    let path = paths::report_path(data_dir, experiment);
    report::write_html(&data, &path)?;
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &report::summary_json(&data, &path))?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}\nreport: {}", report::summary(&data), paths::shortened(&path).display())?;
    }
    // A script must see that a run without any result failed.
    anyhow::ensure!(
        data.counts.measured > 0 || data.set_aside.is_empty(),
        "every prompt was set aside, and none was measured: fix the causes, then run under another name"
    );
    Ok(())
}
