//! `dissent run`: an experiment to its end, in the foreground.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_actors::Ending;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::replay::Replay;
use dissent_models::runtime::Provider;

use crate::cli::paths;
use crate::config::Config;
use crate::error::BadInput;
use crate::experiment::run::{Run, run_experiment};
use crate::history::overview::{CommandedBy, ExperimentHistory};
use crate::progress::ProgressView;
use crate::report;
use crate::telemetry::LogFormat;

/// Run an experiment to its end, or go on where it stopped
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent run experiment.toml
  dissent run experiment.toml --provider cuda
  DISSENT_LOG=info dissent run experiment.toml 2> run.log

Configuration (* is needed; relative paths start at the file's folder, `cache:` at the cache folder):
  [experiment]  name*, seed = 0, rounds = 1, data_dir
  [prompts]     path*: JSON lines of {\"prompt_id\"?, \"prompt\", \"category\"?}
  [policy]      path*, adapter, template = \"chat\"
  [reward]      path*, layers, adapter, template = \"chat\", kind = \"reward\" or \"cost\"
  [generation]  samples = 8, temperature = 0.7, top_p = 1.0, top_k = 0, max_new_tokens = 128, batch_prompts = 4
  [conflict]    rule = \"paper\" (delta, tau), \"mean\" (delta), \"quantile\" (quantile = 0.9), or with a budget \"budget\", \"gap\",
                \"discordant\", \"doubt\", \"equal_margin\", \"gap_and_margin\", \"margin\", \"rso\", \"random\"; \"all\", \"none\";
                logprob = \"sum\" or \"mean\"
  [broker]      kind = \"embedded\" or \"rabbitmq\"; [artifacts] url, cache_gib: see dissent serve --help
  [runtime]     provider = \"auto\", \"cpu\" or \"cuda\", threads = 0, onnxruntime

With [feedback] a round goes on: what is selected is judged, the reward model is refined, the policy tuned and evaluated:
  [feedback]    source* = \"oracle\" (needs [gold]) or \"people\", opponent = \"conflict\", \"margin\" or \"random\", overlap = 1,
                budget
  [gold]        kind* = \"sentiment\"; \"answers\" with path*: JSON lines of {\"prompt_id\", \"answer\"}; or \"model\" with path*,
                layers, adapter, template = \"chat\", score = \"reward\" or \"cost\"
  [refinement]  data: the original preferences, format, preferred; and as a training
  [tuning]*     method = \"dpo\", \"rso\", \"ppo\", \"grpo\" or \"rloo\", beta = 0.1, loss = \"sigmoid\", ppo.*; and as a training
  [evaluation]* prompts*: held-out ones, samples
  [guards]      kl_max, gold_patience, stop_on_reward_hacking = false, agreement_drop = 0.05
  a training    learning_rate, schedule = \"linear\", warmup_steps, warmup_ratio, epochs = 1, steps, batch_size = 8,
                gradient_accumulation = 1, max_length = 512, weight_decay = 0, max_grad_norm = 1, adam_betas, adam_epsilon,
                lora.r, lora.alpha, lora.targets, full = false, recompute = false, seed

What was created is started by it; what an operator paused stays paused (`dissent experiment resume NAME`).

Press Ctrl-C to stop: what is in hand is finished (a second Ctrl-C gives it up), everything done is kept, and the
same command goes on from there. The result is the same as without the stop.")]
pub(crate) struct RunArgs {
    /// The experiment's configuration.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Where models run: cpu, cuda or auto. Overrides the configuration.
    #[arg(long)]
    provider: Option<Provider>,
    /// Threads of one model run; 0: one for each physical core. Overrides the configuration.
    #[arg(long)]
    threads: Option<usize>,
    /// Prompts worked on at once: speed only, the result is the same. Overrides the configuration.
    #[arg(long)]
    batch_prompts: Option<usize>,
    /// Where people judge: wait for their judgements, and go on.
    #[arg(long)]
    wait: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(data_dir: Option<&Path>, format: LogFormat, args: &RunArgs) -> anyhow::Result<()> {
    let config = configured(args)?;
    let data_dir = paths::data_dir(data_dir.or(config.experiment.data_dir.as_deref()));
    let view = ProgressView::new(format);
    let Run { ending, experiment, log } = run_experiment(&config, &data_dir, args.wait, &view)?;
    drop(view);
    match ending {
        Ending::Finished => conclude(&*log, &experiment, &data_dir, args.json),
        Ending::WaitsForPeople => say_what_people_can_do(&*log, &experiment, &args.config, &data_dir),
        Ending::Paused => say_how_to_go_on(&*log, &experiment, &args.config, &data_dir),
        Ending::Cancelled => Err(BadInput(cancelled(&*log, &experiment)?).into()),
    }
}

fn configured(args: &RunArgs) -> anyhow::Result<Config> {
    let mut config = Config::load(&args.config)?;
    config.runtime.provider = args.provider.unwrap_or(config.runtime.provider);
    config.runtime.threads = args.threads.unwrap_or(config.runtime.threads);
    config.generation.batch_prompts = args.batch_prompts.unwrap_or(config.generation.batch_prompts);
    config.validate().map_err(BadInput)?;
    Ok(config)
}

/// Says how many comparisons wait for people, and how they are judged.
fn say_what_people_can_do(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    config: &Path,
    data_dir: &Path,
) -> anyhow::Result<()> {
    let mut replay = Replay::new();
    for recorded in log.read_stream(experiment, 0, usize::MAX)? {
        replay.apply(&recorded)?;
    }
    let asked = replay.experiment().rounds().last().map_or(0, |round| round.learning().comparisons().len());
    let option = paths::data_option(data_dir);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{asked} comparisons wait for people's judgements.\n\
         hand them out:  dissent feedback export {experiment} --format html --output judge.html{option}\n\
         take them in:   dissent feedback import FILE{option}    (the file that the page saves)\n\
         and go on:      dissent run {}{option}",
        config.display()
    )?;
    Ok(())
}

/// Says who paused it, and how it goes on.
fn say_how_to_go_on(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    config: &Path,
    data_dir: &Path,
) -> anyhow::Result<()> {
    let past = ExperimentHistory::read(log, experiment, None)?;
    let words = CommandedBy::of(past.experiment()).and_then(|ordered| ordered.words());
    let option = paths::data_option(data_dir);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{experiment} is paused{}\nto go on:  dissent experiment resume {experiment}{option} && dissent run {}{option}",
        words.map_or_else(String::new, |words| format!(" {words}")),
        config.display()
    )?;
    Ok(())
}

fn cancelled(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<String> {
    let past = ExperimentHistory::read(log, experiment, None)?;
    let words = CommandedBy::of(past.experiment()).and_then(|ordered| ordered.words());
    Ok(format!(
        "{experiment} was cancelled{}: fork what it has come to (dissent experiment fork {experiment} --at ... --as ...), or give the \
         configuration another name",
        words.map_or_else(String::new, |words| format!(" {words}")),
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
        writeln!(out, "{}\nreport: {}", report::summary(&data), paths::shown(&path).display())?;
    }
    // A run of which nothing came should not look to a script like one that went well.
    anyhow::ensure!(
        data.counts.measured > 0 || data.set_aside.is_empty(),
        "every prompt was set aside and nothing was measured: once the reasons are gone, run it under another name"
    );
    Ok(())
}
