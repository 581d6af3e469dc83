//! `dissent feedback export`: the open comparisons, for people to judge.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::{ANNOTATOR_BYTES_MAX, RequestedComparison};
use dissent_domain::plan::Plan;
use dissent_storage::SledLog;

use super::assignment::assign;
use super::page::Task;
use super::recorded::RecordedExperiment;
use super::{comparisons, csv};
use crate::cli::paths::{FileOrStream, is_stream};
use crate::error::BadInput;
use crate::log_access::open;
use crate::{files, text};

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Name of the experiment.
    #[arg(value_parser = |name: &str| ExperimentId::new(name))]
    experiment: ExperimentId,
    /// A page to judge on, a table for a spreadsheet, or JSON lines.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Where to write; `-` is stdout. `{annotator}` in it stands for the annotator's name.
    #[arg(long, short, default_value = "-", value_name = "FILE")]
    output: FileOrStream,
    /// For whom: leaves out what this annotator has judged, and names the annotator on every line. Given
    /// several times, the open comparisons are shared out among them, each to as many as it needs, in a file
    /// for each.
    #[arg(long = "annotator", value_name = "NAME", value_parser = annotator)]
    annotators: Vec<String>,
    /// All comparisons of the round, judged ones too.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON lines.
    Jsonl,
    /// Comma-separated values, with a header.
    Csv,
    /// A page to judge on, which needs nothing but a browser and saves JSON lines.
    Html,
}

/// A name that can be recorded.
pub(super) fn annotator(name: &str) -> Result<String, String> {
    let name = name.trim();
    if name.is_empty() || name.len() > ANNOTATOR_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!("a name has 1 to {ANNOTATOR_BYTES_MAX} bytes and no control characters"));
    }
    Ok(name.to_owned())
}

pub(super) fn run(data_dir: &Path, args: &ExportArgs) -> anyhow::Result<()> {
    check(args)?;
    let log = open::read_log(data_dir)?;
    let known = RecordedExperiment::read(&*log, &args.experiment)?;
    let (plan, round) = (known.plan()?, known.asking()?);
    let overlap = plan.learning.as_ref().map_or(1, |learning| learning.feedback.overlap) as usize;
    let is_settled = round.learning().settled().is_some();
    let is_open =
        |asked: &&RequestedComparison| args.all || !(is_settled || asked.judgements.len() >= overlap);
    let open: Vec<&RequestedComparison> = round.learning().comparisons().iter().filter(is_open).collect();
    let assignments = assignments(args, &open, overlap);
    let state = if is_settled { "; the feedback of this round is settled" } else { "" };
    for (annotator, assignment) in &assignments {
        let content = written(&log, plan, round.number(), *annotator, assignment, args.format)?;
        write(&content, &output(&args.output, *annotator))?;
        let comparisons = text::count(assignment.len() as u64, "comparison");
        let whose = annotator.map(|name| format!(" for {}", text::visible(name))).unwrap_or_default();
        say(&format!("{comparisons} of round {}{whose}{state}", round.number()))?;
    }
    let wanted: usize = open.iter().map(|asked| overlap.saturating_sub(asked.judgements.len())).sum();
    let assigned = assignments.iter().map(|(_, assignment)| assignment.len()).sum();
    if assignments.len() > 1 && wanted > assigned {
        let missing = text::count((wanted - assigned) as u64, "judgement");
        say(&format!("{missing} will be missing: these annotators are too few"))?;
    }
    Ok(())
}

/// Who gets which of the open comparisons.
fn assignments<'a>(
    args: &'a ExportArgs,
    open: &[&'a RequestedComparison],
    overlap: usize,
) -> Vec<(Option<&'a str>, Vec<&'a RequestedComparison>)> {
    match args.annotators.as_slice() {
        [] => vec![(None, open.to_vec())],
        [only] => {
            let wanted = |asked: &&&RequestedComparison| args.all || asked.judgements.of(only).is_none();
            vec![(Some(only), open.iter().filter(wanted).copied().collect())]
        }
        several => {
            several.iter().map(|name| Some(name.as_str())).zip(assign(open, overlap, several)).collect()
        }
    }
}

fn say(words: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{words}").context("failed to write to stderr")
}

/// What stands for the annotator's name in the path of a file.
const PLACE: &str = "{annotator}";

/// Refuses what would write the files of several annotators to one place.
fn check(args: &ExportArgs) -> anyhow::Result<()> {
    let [_, _, ..] = args.annotators.as_slice() else { return Ok(()) };
    if args.all {
        return Err(
            BadInput("--all shares nothing out: name one annotator, or leave it out".to_owned()).into()
        );
    }
    let mut paths = BTreeMap::new();
    for name in &args.annotators {
        if let Some(other) = paths.insert(output(&args.output, Some(name)), name) {
            let reason = if other == name {
                format!("--annotator {name} is given twice")
            } else {
                format!(
                    "the files of {other} and {name} would be one: write {PLACE} into --output, and names that differ by letters"
                )
            };
            return Err(BadInput(reason).into());
        }
    }
    Ok(())
}

/// The path of an annotator's file. Of the name only letters and digits are taken: it must not lead
/// elsewhere.
fn output(pattern: &Path, annotator: Option<&str>) -> PathBuf {
    let Some(text) = pattern.to_str().filter(|text| text.contains(PLACE)) else { return pattern.to_owned() };
    let name: String =
        annotator.unwrap_or("anyone").chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    text.replace(PLACE, &name).into()
}

fn write(content: &[u8], path: &Path) -> anyhow::Result<()> {
    if is_stream(path) {
        std::io::stdout().write_all(content).context("failed to write to stdout")
    } else {
        files::write(content, path)
    }
}

fn written(
    log: &SledLog,
    plan: &Plan,
    round: u32,
    annotator: Option<&str>,
    wanted: &[&RequestedComparison],
    format: Format,
) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    match format {
        Format::Jsonl => comparisons::each(log, plan, wanted, annotator, |row| {
            out.extend_from_slice(text::ascii_controls(serde_json::to_string(row)?).as_bytes());
            out.push(b'\n');
            Ok(())
        })?,
        Format::Csv => {
            csv::begin(&mut out)?;
            comparisons::each(log, plan, wanted, annotator, |row| csv::line(&mut out, row))?;
        }
        Format::Html => {
            let mut task = Task::new(&plan.experiment, round, annotator);
            comparisons::each(log, plan, wanted, annotator, |row| {
                task.push(row);
                Ok(())
            })?;
            out = task.html()?.into_bytes();
        }
    }
    Ok(out)
}
