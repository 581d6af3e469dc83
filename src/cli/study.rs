//! `dissent study`: one question, several rules and seeds, one report.

use std::cell::Cell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dissent_models::runtime::Provider;
use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt;
use crate::cli::paths;
use crate::experiment::models;
use crate::study::config::{StudyConfig, Subject};
use crate::study::report;
use crate::study::training::ModelRuntime;

/// Compare selection rules: the same experiment under several rules and seeds, in one report
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent study examples/study-humans.toml
  dissent study examples/study-humans.toml --labelled dev_feedback.json
  dissent --data-dir here study examples/study-categories.toml

Two kinds of study, by the sections of the configuration (* is needed):
  [study]     name*, seed = 0, data_dir, and for experiments: seeds*, parallel = 1

  On given answers that people have compared: how soon does each rule find the proxy's errors?
  [labelled]  path*, held_out*, logprob = \"sum\" or \"mean\"
  [policy]    path*, adapter, template*, prompt*: what it is asked, naming {question} and, if it is to see them, {passages}
  [proxy]     path*, layers, template*, prompt*, and either adapter, or: members = 1, pairs*, and [proxy.training]
  [runtime]   as of `dissent run`

  Experiments: what becomes of policy and proxy under each rule?
  [[arm]]     rule*, budgets = [], opponent
  and the sections of `dissent run` that all experiments have in common

Press Ctrl-C to stop: everything done is kept, and the same command goes on from there. The report is written as HTML,
Markdown and JSON.")]
pub(crate) struct StudyArgs {
    /// The study's configuration.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// The labelled answers. Overrides the configuration.
    #[arg(long, value_name = "FILE")]
    labelled: Option<PathBuf>,
    /// Most experiments at the same time; fewer where memory is short. Overrides the configuration.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: Option<u8>,
    /// Where models run: cpu, cuda or auto. Overrides the configuration.
    #[arg(long)]
    provider: Option<Provider>,
    /// Print the report as JSON instead of its verdict.
    #[arg(long)]
    json: bool,
}

/// Least time between two lines of progress.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

pub(crate) fn run(data_dir: Option<&Path>, args: &StudyArgs) -> anyhow::Result<()> {
    let mut config = StudyConfig::load(&args.config)?;
    config.study.parallel = args.parallel.map_or(config.study.parallel, usize::from);
    config.runtime.provider = args.provider.unwrap_or(config.runtime.provider);
    if let (Subject::Labelled(of), Some(path)) = (&mut config.subject, &args.labelled) {
        of.labelled.path.clone_from(path);
    }
    let data_dir = paths::data_dir(data_dir.or(config.study.data_dir.as_deref()));
    let (runtime, options) = models::runtime(&config.runtime, 1)?;
    let workshop = ModelRuntime { runtime, options, cancel: interrupt::cancel_flag()? };
    let line = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg}")?);
    let written = Cell::new(None::<Instant>);
    let say = |what: &str| {
        tracing::info!(what, "study");
        line.set_message(what.to_owned());
        line.tick();
        // Where there is no terminal, a line now and then.
        if line.is_hidden() && written.get().is_none_or(|last| last.elapsed() >= BETWEEN_LINES) {
            written.set(Some(Instant::now()));
            // Whoever read it may have gone.
            let _ = writeln!(std::io::stderr(), "{what}");
        }
    };
    let report = crate::study::run(&config, &data_dir, &workshop, &say).map_err(stopped)?;
    line.finish_and_clear();
    let page = report::write(&report, &data_dir.join("reports"))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        write!(out, "{}", report::json(&report)?)?;
    } else {
        writeln!(out, "{}\nreport: {}", report::summary(&report), page.display())?;
    }
    Ok(())
}

/// A study that was stopped goes on the next time.
fn stopped(error: anyhow::Error) -> anyhow::Error {
    let is_stop = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(dissent_models::ModelError::Cancelled)));
    if is_stop { crate::error::Interrupted("run the same command again to go on").into() } else { error }
}
