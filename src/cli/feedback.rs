//! `dissent feedback`: hands comparisons to people, and takes their judgements.

mod comparisons;
mod dealing;
mod export;
mod import;
mod judgements;
mod page;
mod sheet;
mod status;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::experiment::{Experiment, Plan};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::replay::Replay;
use dissent_domain::round::Round;

use crate::error::BadInput;
use crate::log_access::open;

/// Events read at a time: each may hold all the answers to a prompt.
const PAGE_EVENTS: usize = 256;

/// Hand comparisons to people, and take in what they say
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent feedback export my-experiment --format html --output judge.html     open it in a browser, or send it to people
  dissent feedback export my-experiment --format html --output judge-{annotator}.html --annotator ann --annotator ben
                                                      a page for each: the comparisons are shared out
  dissent feedback import my-experiment-round-0-ann.jsonl                     what a page saves
  dissent feedback export my-experiment --format csv --output for-ann.csv --annotator ann
  dissent feedback import for-ann.csv                 with `verdict` filled in: first, second or tie
  dissent feedback status my-experiment

An annotator sees a prompt and two answers, in an order that was drawn, and nothing of what policy or reward model make of
them. Judgements may come from several annotators, in any order and in several files; the same line again changes nothing.
Once every comparison has the judgements it needs, `dissent run CONFIG.toml` goes on. All of this also works while a
`dissent run --wait` or a `dissent serve` is under way.")]
pub(crate) struct FeedbackArgs {
    #[command(subcommand)]
    command: FeedbackCommand,
}

#[derive(Debug, clap::Subcommand)]
enum FeedbackCommand {
    /// Write the comparisons that wait for judgements
    Export(export::ExportArgs),
    /// Take judgements in: all of a file, or none
    Import(import::ImportArgs),
    /// Say what is asked, what is open, and how far annotators agree
    Status(status::StatusArgs),
}

pub(crate) fn run(data_dir: &Path, args: &FeedbackArgs) -> anyhow::Result<()> {
    match &args.command {
        FeedbackCommand::Export(args) => export::run(data_dir, args),
        FeedbackCommand::Import(args) => import::run(data_dir, args),
        FeedbackCommand::Status(args) => status::run(data_dir, args),
    }
}

/// An experiment as the log has it.
struct Known {
    experiment: Experiment,
    /// Of its last event.
    version: u64,
}

impl Known {
    fn read(log: &dyn EventLog, name: &ExperimentId) -> anyhow::Result<Self> {
        open::require_experiment(log, name)?;
        let mut replay = Replay::new();
        loop {
            let page = log.read_stream(name, replay.version(), PAGE_EVENTS)?;
            page.iter().try_for_each(|recorded| replay.apply(recorded))?;
            if page.len() < PAGE_EVENTS {
                return Ok(Self { version: replay.version(), experiment: replay.into_experiment() });
            }
        }
    }

    fn plan(&self) -> anyhow::Result<&Plan> {
        self.experiment.plan().context("the experiment has no plan")
    }

    /// The last round that put comparisons up.
    fn asking(&self) -> anyhow::Result<&Round> {
        let plan = self.plan()?;
        if plan.learning.is_none() {
            return Err(BadInput(format!(
                "the experiment {} asks nobody: it was begun without [feedback]",
                plan.experiment
            ))
            .into());
        }
        let asking = self.experiment.rounds().iter().rfind(|round| round.evaluation().is_some());
        asking.ok_or_else(|| {
            let reason = format!(
                "the experiment {} has nothing to ask yet: its first round is still measured; `dissent run` goes on",
                plan.experiment
            );
            BadInput(reason).into()
        })
    }
}

/// The path that stands for stdin or stdout.
fn is_stream(path: &Path) -> bool {
    path == Path::new("-")
}

/// A file, or `-`.
type FileOrStream = PathBuf;
