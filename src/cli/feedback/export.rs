//! `dissent feedback export`: the open comparisons, for people to judge.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use clap::ValueEnum;
use dissent_domain::event::{CompletionsSampled, Event, FeedbackRequested};
use dissent_domain::experiment::Plan;
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::learning::{ANNOTATOR_BYTES_MAX, Asked, completions_sampled_id};
use dissent_domain::log::EventLog;
use dissent_storage::SledLog;
use serde::Serialize;

use super::{FileOrStream, Known, is_stream, sheet};
use crate::report;

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Name of the experiment.
    #[arg(value_parser = |name: &str| ExperimentId::new(name))]
    experiment: ExperimentId,
    /// JSON lines, or a table for a spreadsheet.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Where to write; `-` is stdout.
    #[arg(long, short, default_value = "-", value_name = "FILE")]
    output: FileOrStream,
    /// For whom: leaves out what this annotator has judged, and names the annotator on every line.
    #[arg(long, value_name = "NAME", value_parser = annotator)]
    annotator: Option<String>,
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
}

/// A name that can be recorded.
pub(super) fn annotator(name: &str) -> Result<String, String> {
    let name = name.trim();
    if name.is_empty() || name.len() > ANNOTATOR_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!("a name has 1 to {ANNOTATOR_BYTES_MAX} bytes and no control characters"));
    }
    Ok(name.to_owned())
}

/// What an annotator gets to see. Nothing in it says what policy or reward model make of the answers: who knows that
/// judges otherwise.
#[derive(Debug, Serialize)]
struct Row<'a> {
    experiment: &'a ExperimentId,
    round: u32,
    comparison: u32,
    prompt_id: &'a PromptId,
    prompt: &'a str,
    first: &'a str,
    second: &'a str,
    /// To be filled in, as the rest.
    annotator: Option<&'a str>,
    verdict: Option<&'a str>,
    first_unsafe: Option<bool>,
    second_unsafe: Option<bool>,
    comment: Option<&'a str>,
}

/// The columns of a table, in their order.
const COLUMNS: [&str; 12] = [
    "experiment",
    "round",
    "comparison",
    "prompt_id",
    "prompt",
    "first",
    "second",
    "annotator",
    "verdict",
    "first_unsafe",
    "second_unsafe",
    "comment",
];

pub(super) fn run(data_dir: &Path, args: &ExportArgs) -> anyhow::Result<()> {
    let log = super::super::read_log(data_dir)?;
    let known = Known::read(&*log, &args.experiment)?;
    let (plan, round) = (known.plan()?, known.asking()?);
    let overlap = plan.learning.as_ref().map_or(1, |learning| learning.feedback.overlap);
    let is_settled = round.learning().settled().is_some();
    let wanted = |asked: &&Asked| {
        let by_name = args.annotator.as_ref().is_some_and(|name| asked.judgements.of(name).is_some());
        let enough = is_settled || asked.judgements.len() >= overlap as usize;
        args.all || (!by_name && !enough)
    };
    let wanted: Vec<&Asked> = round.learning().asked().iter().filter(wanted).collect();
    let content = written(&log, plan, &wanted, args)?;
    if is_stream(&args.output) {
        std::io::stdout().write_all(&content).context("failed to write to stdout")?;
    } else {
        report::write(&content, &args.output)?;
    }
    let comparisons = report::count(wanted.len() as u64, "comparison");
    let state = if is_settled { "; the feedback of this round is settled" } else { "" };
    writeln!(std::io::stderr(), "{comparisons} of round {}{state}", round.number())
        .context("failed to write to stderr")
}

fn written(log: &SledLog, plan: &Plan, wanted: &[&Asked], args: &ExportArgs) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    if args.format == Format::Csv {
        // Without it, some spreadsheets take UTF-8 for something else.
        out.extend_from_slice("\u{FEFF}".as_bytes());
        csv_line(&mut out, &COLUMNS.map(str::to_owned))?;
    }
    // Comparisons of a prompt follow one another.
    let mut at_hand: Option<CompletionsSampled> = None;
    for asked in wanted {
        let request = &asked.request;
        if at_hand.as_ref().is_none_or(|texts| texts.prompt.prompt_id != request.prompt_id) {
            at_hand = Some(completions(log, plan, request)?);
        }
        let Some(texts) = &at_hand else { continue };
        let answer = |index: u32| {
            let found = texts.completions.get(index as usize).map(|completion| completion.text.as_str());
            found.with_context(|| format!("the prompt {} has no answer {index}", request.prompt_id))
        };
        let row = Row {
            experiment: &plan.experiment,
            round: request.round,
            comparison: request.comparison,
            prompt_id: &request.prompt_id,
            prompt: &texts.prompt.text,
            first: answer(request.first)?,
            second: answer(request.second)?,
            annotator: args.annotator.as_deref(),
            verdict: None,
            first_unsafe: None,
            second_unsafe: None,
            comment: None,
        };
        match args.format {
            Format::Jsonl => {
                out.extend_from_slice(report::ascii_controls(serde_json::to_string(&row)?).as_bytes());
                out.push(b'\n');
            }
            Format::Csv => csv_line(&mut out, &cells(&row))?,
        }
    }
    Ok(out)
}

/// The answers to the prompt of a comparison.
fn completions(
    log: &SledLog,
    plan: &Plan,
    request: &FeedbackRequested,
) -> anyhow::Result<CompletionsSampled> {
    let id = completions_sampled_id(plan, request.round, request.prompt_index);
    let recorded =
        log.find(id)?.with_context(|| format!("the answers to {} are not in the log", request.prompt_id))?;
    let Event::CompletionsSampled(sampled) = recorded.decode()? else {
        anyhow::bail!("event {} is not of the answers to {}", recorded.position, request.prompt_id)
    };
    Ok(sampled)
}

fn cells(row: &Row<'_>) -> [String; 12] {
    let text = |text: &str| sheet::guarded(&report::visible(text));
    [
        text(row.experiment.as_str()),
        row.round.to_string(),
        row.comparison.to_string(),
        text(row.prompt_id.as_str()),
        text(row.prompt),
        text(row.first),
        text(row.second),
        text(row.annotator.unwrap_or_default()),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
    ]
}

fn csv_line(out: &mut Vec<u8>, cells: &[String; 12]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(cells)?;
    Ok(writer.flush()?)
}
