//! `dissent study`: compares selection rules over several seeds, in one report.

use std::cell::Cell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt;
use super::runtime_args::RuntimeOverrides;
use crate::cli::paths;
use crate::experiment::models;
use crate::study::config::{StudyConfig, Subject};
use crate::study::report;
use crate::study::training::ModelRuntime;

/// Compare selection rules over several seeds, in one report
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent study examples/study-humans.toml
  dissent study examples/study-humans.toml --labelled dev_feedback.json
  dissent --data-dir here study examples/study-categories.toml

The sections of the configuration decide between two kinds of study (* marks required keys):
  [study]     name*, seed = 0, data_dir, and for experiments: seeds*, parallel = 1

  On completions that people have already compared: how soon does each rule find the proxy's errors?
  [labelled]  path* (JSON Lines, see Formats in the book, or the feedback of Fine-Grained RLHF), held_out*,
              logprob = \"sum\" or \"mean\"
  [policy]    path*, adapter, template*, prompt* (a text with {question}, and optionally {passages})
  [proxy]     path*, layers, template*, prompt*, and either adapter, or: members = 1, pairs*, and [proxy.training]
  [runtime]   as for `dissent run`

  On whole experiments: how do policy and proxy change under each rule?
  [[arm]]     rule*, budgets = [], opponent
  and the sections of `dissent run` that all experiments share

Press Ctrl-C to stop: finished work is kept, and the same command resumes. The report is written as HTML, Markdown and JSON.")]
pub(crate) struct StudyArgs {
    /// Configuration of the study.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    config: PathBuf,
    /// File with labelled completions. Overrides the configuration.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    labelled: Option<PathBuf>,
    /// Maximum number of experiments at the same time; fewer run if memory is short. Overrides the
    /// configuration.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: Option<u8>,
    #[command(flatten)]
    runtime: RuntimeOverrides,
    /// Print the report as JSON instead of its summary.
    #[arg(long)]
    json: bool,
}

/// Shortest time between two lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) fn run(data_dir: Option<&Path>, args: &StudyArgs) -> anyhow::Result<()> {
    let mut config = StudyConfig::load(&args.config)?;
    config.study.parallel = args.parallel.map_or(config.study.parallel, usize::from);
    args.runtime.apply(&mut config.runtime);
    if let (Subject::Labelled(subject), Some(path)) = (&mut config.subject, &args.labelled) {
        subject.labelled.path.clone_from(path);
    }
    let data_dir = paths::data_dir(data_dir.or(config.study.data_dir.as_deref()));
    let (runtime, options) = models::runtime(&config.runtime, 1)?;
    let model_runtime = ModelRuntime { runtime, options, cancel: interrupt::cancel_flag()? };
    let line = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg}")?);
    let written = Cell::new(None::<Instant>);
    let show_progress = |activity: &str| {
        tracing::info!(activity, "running study");
        line.set_message(activity.to_owned());
        line.tick();
        // Without a terminal, a line from time to time replaces the spinner.
        if line.is_hidden() && written.get().is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
            written.set(Some(Instant::now()));
            // A closed stderr does not stop a study.
            let _ = writeln!(std::io::stderr(), "{activity}");
        }
    };
    let report =
        crate::study::run(&config, &data_dir, &model_runtime, &show_progress).map_err(map_cancelled)?;
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

/// Turns a cancelled model run into an interruption, after which the study can resume.
fn map_cancelled(error: anyhow::Error) -> anyhow::Error {
    let is_cancelled = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(dissent_models::ModelError::Cancelled)));
    if is_cancelled {
        crate::error::Interrupted("run the same command again to resume").into()
    } else {
        error
    }
}
