//! `dissent feedback export`: writes the open comparisons for annotators.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use dissent_domain::learning::{ANNOTATOR_BYTES_MAX, RequestedComparison};
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;

use super::assignment::assign;
use super::csv;
use super::page::Task;
use crate::cli::experiment_arg::{ExperimentArg, Target};
use crate::cli::paths::{FileOrStream, is_stream};
use crate::error::BadInput;
use crate::feedback::RecordedExperiment;
use crate::feedback::comparisons;
use crate::log_access::open;
use crate::{files, text};

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Name of the experiment, or its configuration.
    #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: ExperimentArg,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// File to write; `-` is stdout. `{annotator}` is replaced by the annotator's name.
    #[arg(value_parser = crate::cli::paths::path(), long, short, default_value = "-", value_name = "FILE")]
    output: FileOrStream,
    /// Annotator of the file, named on every line. Comparisons that the annotator has judged are left out.
    /// Several annotators share the open comparisons, with a file for each.
    #[arg(long = "annotator", value_name = "NAME", value_parser = annotator)]
    annotators: Vec<String>,
    /// Export all comparisons of the round, judged ones included.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON Lines.
    Jsonl,
    /// Table for a spreadsheet: comma-separated values with a header.
    Csv,
    /// Page to judge on in a browser, which saves JSON Lines.
    Html,
}

/// Parses the name of an annotator.
pub(super) fn annotator(name: &str) -> Result<String, String> {
    let name = name.trim();
    if name.is_empty() || name.len() > ANNOTATOR_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!("must have 1 to {ANNOTATOR_BYTES_MAX} bytes and no control characters"));
    }
    Ok(name.to_owned())
}

pub(super) fn run(data_dir: Option<&Path>, args: &ExportArgs) -> anyhow::Result<()> {
    check(args)?;
    let Target { experiment, data_dir } = args.experiment.target(data_dir)?;
    let log = open::read_log(&data_dir)?;
    let recorded = RecordedExperiment::read(&*log, &experiment)?;
    let (plan, round) = (recorded.plan()?, recorded.feedback_round()?);
    let overlap = plan.learning.as_ref().map_or(1, |learning| learning.feedback.overlap) as usize;
    let is_settled = round.learning().settled().is_some();
    let is_open =
        |requested: &&RequestedComparison| args.all || !(is_settled || requested.judgements.len() >= overlap);
    let open: Vec<&RequestedComparison> = round.learning().comparisons().iter().filter(is_open).collect();
    let assignments = assignments(args, &open, overlap);
    let state = if is_settled { "; the feedback of this round is settled" } else { "" };
    for (annotator, assignment) in &assignments {
        let content = render(&*log, plan, round.number(), *annotator, assignment, args.format)?;
        write(&content, &output_path(&args.output, *annotator))?;
        let comparisons = text::count(assignment.len() as u64, "comparison");
        let addressee = annotator.map(|name| format!(" for {}", text::visible(name))).unwrap_or_default();
        print_notice(&format!("exported {comparisons} of round {}{addressee}{state}", round.number()))?;
    }
    let needed: usize = open.iter().map(|requested| overlap.saturating_sub(requested.judgements.len())).sum();
    let assigned = assignments.iter().map(|(_, assignment)| assignment.len()).sum();
    if assignments.len() > 1 && needed > assigned {
        let missing = text::count((needed - assigned) as u64, "judgement");
        print_notice(&format!("{missing} without an annotator: export to more annotators"))?;
    }
    Ok(())
}

/// Returns the open comparisons of each annotator.
fn assignments<'a>(
    args: &'a ExportArgs,
    open: &[&'a RequestedComparison],
    overlap: usize,
) -> Vec<(Option<&'a str>, Vec<&'a RequestedComparison>)> {
    match args.annotators.as_slice() {
        [] => vec![(None, open.to_vec())],
        [only] => {
            let is_unjudged =
                |requested: &&&RequestedComparison| args.all || requested.judgements.of(only).is_none();
            vec![(Some(only), open.iter().filter(is_unjudged).copied().collect())]
        }
        several => {
            several.iter().map(|name| Some(name.as_str())).zip(assign(open, overlap, several)).collect()
        }
    }
}

fn print_notice(notice: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{notice}").context("failed to write to stderr")
}

/// Placeholder for the annotator's name in the path of a file.
const PLACEHOLDER: &str = "{annotator}";

/// Checks that several annotators get different files.
fn check(args: &ExportArgs) -> anyhow::Result<()> {
    let [_, _, ..] = args.annotators.as_slice() else { return Ok(()) };
    if args.all {
        return Err(BadInput(
            "--all is not possible with several annotators: name one annotator, or omit --all".to_owned(),
        )
        .into());
    }
    let mut paths = BTreeMap::new();
    for name in &args.annotators {
        if let Some(other) = paths.insert(output_path(&args.output, Some(name)), name) {
            let reason = if other == name {
                format!("--annotator {name} is repeated: name each annotator once")
            } else {
                format!(
                    "{other} and {name} would share a file: put {PLACEHOLDER} into --output, and use names that differ in letters"
                )
            };
            return Err(BadInput(reason).into());
        }
    }
    Ok(())
}

/// Returns the path of an annotator's file. Only letters and digits of the name are kept, so that a name
/// cannot change the folder.
fn output_path(pattern: &Path, annotator: Option<&str>) -> PathBuf {
    let Some(text) = pattern.to_str().filter(|text| text.contains(PLACEHOLDER)) else {
        return pattern.to_owned();
    };
    let name: String =
        annotator.unwrap_or("anyone").chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    text.replace(PLACEHOLDER, &name).into()
}

fn write(content: &[u8], path: &Path) -> anyhow::Result<()> {
    if is_stream(path) {
        std::io::stdout().write_all(content).context("failed to write to stdout")
    } else {
        files::write(content, path)
    }
}

fn render(
    log: &dyn EventLog,
    plan: &Plan,
    round: u32,
    annotator: Option<&str>,
    requested: &[&RequestedComparison],
    format: Format,
) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    match format {
        Format::Jsonl => comparisons::each(log, plan, requested, annotator, |row| {
            out.extend_from_slice(text::ascii_controls(serde_json::to_string(row)?).as_bytes());
            out.push(b'\n');
            Ok(())
        })?,
        Format::Csv => {
            csv::write_header(&mut out)?;
            comparisons::each(log, plan, requested, annotator, |row| csv::write_row(&mut out, row))?;
        }
        Format::Html => {
            let mut task = Task::new(&plan.experiment, round, annotator);
            comparisons::each(log, plan, requested, annotator, |row| {
                task.push(row);
                Ok(())
            })?;
            out = task.html()?.into_bytes();
        }
    }
    Ok(out)
}
