//! `dissent feedback`: exports comparisons for annotators and imports their judgements.

mod assignment;
mod csv;
mod export;
mod import;
mod judgements;
mod page;
mod status;

use std::path::Path;

/// Export comparisons for annotators, and import their judgements
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent feedback export my-experiment --format html --output judge.html     a page to open or to send
  dissent feedback export my-experiment --format html --output judge-{annotator}.html --annotator ann --annotator ben
                                                      one page per annotator; the annotators share the comparisons
  dissent feedback import my-experiment-round-0-ann.jsonl                     the file that a page saves
  dissent feedback export my-experiment --format csv --output for-ann.csv --annotator ann
  dissent feedback import for-ann.csv                 after `verdict` is filled in: first, second or tie
  dissent feedback status my-experiment

An annotator sees a prompt and two completions in random order, without rewards and log-probabilities. Judgements may come from
several annotators, in any order and in several files; a repeated judgement changes nothing. When every comparison has its
judgements, `dissent run CONFIG.toml` continues. These commands also work during `dissent run --wait` and `dissent serve`.")]
pub(crate) struct FeedbackArgs {
    #[command(subcommand)]
    command: FeedbackCommand,
}

#[derive(Debug, clap::Subcommand)]
enum FeedbackCommand {
    /// Write the comparisons that need judgements
    Export(export::ExportArgs),
    /// Record judgements: all of a file, or none
    Import(import::ImportArgs),
    /// Show requested and open comparisons, and the agreement of annotators
    Status(status::StatusArgs),
}

pub(crate) fn run(data_dir: Option<&Path>, args: &FeedbackArgs) -> anyhow::Result<()> {
    match &args.command {
        FeedbackCommand::Export(args) => export::run(data_dir, args),
        FeedbackCommand::Import(args) => import::run(data_dir, args),
        FeedbackCommand::Status(args) => status::run(data_dir, args),
    }
}
