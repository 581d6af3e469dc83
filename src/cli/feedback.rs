//! `dissent feedback`: hands comparisons to people, and takes their judgements.

mod assignment;
mod comparisons;
mod csv;
mod export;
mod import;
mod judgements;
mod page;
mod recorded;
mod status;

use std::path::Path;

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
