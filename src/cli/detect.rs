//! `dissent detect`: measures conflict on completions that already have scores, as a JSON Lines filter.

mod rows;
mod summary;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use dissent_domain::conflict::{
    Conflict, LogprobKind, Measurer, Rule, ScoredCompletions, Selection, SelectionSettings, select,
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::paths::is_stream;
use crate::dataset::row_error;
use crate::files;
use crate::jsonl::{FieldError, FieldErrorKind, InputError, JsonLinesWriter, OutputError};
use rows::{Mapping, ScoredPrompt};
use summary::Summary;

const EXAMPLES: &str = "\
Input, one prompt a line, or one completion a line with the id or the text of its prompt:
  {\"prompt_id\": \"p1\", \"completions\": [{\"logprob\": -35.2, \"reward\": 0.3}, {\"logprob\": -41, \"reward\": -1.2}]}
  {\"prompt\": \"Why?\", \"text\": \"Because.\", \"logprob\": -35.2, \"reward\": 0.3}
The file is JSON Lines, a JSON array, CSV or Parquet. Every output line begins with the figures of a prompt; its other columns,
with the texts, follow as they were read. An output file is never the input file.

Examples:
  dissent detect --input scored.jsonl --output conflict.jsonl
  dissent detect --rule budget --budget 100 --input scored.jsonl --output conflict.jsonl
  dissent detect --map reward=score --map prompt=question --input table.csv --output conflict.jsonl
  dissent detect --rule random --budget 100 --seed 7 --input scored.jsonl --output baseline.jsonl
  dissent score --policy DIR --reward DIR --input sampled.jsonl --output - | dissent detect --logprob mean";

/// Measure conflict on scored completions, and select the completions with the most conflict.
///
/// PACS is a completion's reward minus its log-probability, both as z-scores within the prompt. Kendall's tau
/// compares the two rankings of a prompt's completions. The output has one JSON line per prompt, in input
/// order. A summary on stderr compares the distributions with pure noise. A prompt whose rewards or
/// log-probabilities do not vary is degenerate: its PACS are 0, its tau is null, and it is never selected.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DetectArgs {
    /// Scored completions; `-` is stdin.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH", default_value = "-")]
    input: PathBuf,
    /// JSON Lines to write; `-` is stdout. A file appears only when it is complete.
    #[arg(value_parser = crate::cli::paths::path(), long, short, value_name = "PATH", default_value = "-")]
    output: PathBuf,
    /// Column of the input that holds one of ours, such as reward=score; may be repeated.
    #[arg(long, value_name = "COLUMN=NAME")]
    map: Vec<Mapping>,
    /// Selection rule
    ///
    /// Rules that select completions:
    /// - paper: |PACS| of at least delta, in prompts with a Kendall-tau distance of at least tau
    /// - mean: whole prompts with mean|PACS| above delta
    /// - budget: the N largest |PACS|
    /// - quantile: |PACS| of at least its Q quantile
    /// - random: N completions drawn uniformly, a fair baseline
    ///
    /// Rules that select comparisons:
    /// - margin: the N smallest differences in reward
    /// - gap: the N largest differences in PACS
    /// - discordant: comparisons that policy and proxy order oppositely
    /// - equal_margin: by gap, among comparisons of similar margin
    /// - gap_and_margin: by the sum of both ranks
    /// - doubt: the N comparisons in which the policy's preference most exceeds the proxy's
    /// - rso: rejection sampling from the proxy
    /// - all: every comparison
    /// - none: no comparison
    #[arg(long, default_value_t, hide_possible_values = true, verbatim_doc_comment, value_name = "RULE",
        value_parser = PossibleValuesParser::new(Rule::ALL.map(Rule::name)).try_map(|name| name.parse::<Rule>()))]
    rule: Rule,
    /// Threshold on |PACS|, or on mean|PACS| for the rule `mean` [default: 1 for paper and mean, none for
    /// other rules].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = not_negative)]
    delta: Option<f64>,
    /// Threshold on the Kendall-tau distance of a prompt, 0 to 1 [default: 0.5 for paper, none for other
    /// rules].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = fraction)]
    tau: Option<f64>,
    /// Maximum number of completions to select over all prompts, or of comparisons under a rule that selects
    /// comparisons. Caps every rule; the highest-ranked are kept.
    #[arg(long, value_name = "N", required_if_eq_any(Rule::ALL.into_iter().filter(|rule| rule.needs_budget())
        .map(|rule| ("rule", rule.name()))))]
    budget: Option<u64>,
    /// Quantile of |PACS| from which the rule `quantile` selects, 0 to 1.
    #[arg(long, value_name = "Q", default_value_t = SelectionSettings::default().quantile,
        allow_negative_numbers = true, value_parser = fraction)]
    quantile: f64,
    /// Seed of the rules `random` and `rso`.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Log-probability to compare with the reward: the sum or the mean over the completion's tokens.
    ///
    /// `mean` reads `logprob_mean`, or divides `logprob` by `tokens` (or by the length of `token_ids`).
    #[arg(long, default_value_t, hide_possible_values = true, value_name = "sum|mean",
        value_parser = PossibleValuesParser::new(LogprobKind::ALL.map(LogprobKind::name)).try_map(|name| name.parse::<LogprobKind>()))]
    logprob: LogprobKind,
    /// Print the summary as one JSON object.
    #[arg(long)]
    json: bool,
}

impl DetectArgs {
    fn selection(&self) -> SelectionSettings {
        SelectionSettings {
            rule: self.rule,
            delta: self.delta,
            tau: self.tau,
            budget: self.budget,
            quantile: self.quantile,
        }
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..f64::INFINITY).contains(&number) { Ok(number) } else { Err("must be 0 or more".to_owned()) }
}

fn fraction(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("must be between 0 and 1".to_owned()) }
}

/// Reads prompts, measures conflict, selects, and writes. Selection needs every prompt, so the output
/// begins after all input is valid.
pub(super) fn run(args: &DetectArgs) -> anyhow::Result<()> {
    let settings = args.selection();
    settings.validate()?;
    files::check_not_input(&args.output, &[&args.input])?;
    let mut prompts = measure_all(args)?;
    let scored: Vec<ScoredCompletions<'_>> = prompts
        .iter()
        .map(|prompt| ScoredCompletions {
            conflict: &prompt.conflict,
            rewards: &prompt.scored.rewards,
            left_out: &[],
        })
        .collect();
    let selection = select(&settings, &scored, args.seed);
    match write_all(&args.output, &mut prompts, &selection) {
        // The reader of our stdout, such as `head`, has closed the pipe.
        Err(error) if error.source.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        written => written?,
    }
    let conflicts: Vec<&Conflict> = prompts.iter().map(|prompt| &prompt.conflict).collect();
    let summary = Summary::of(&conflicts, &selection, &settings, args.seed, args.logprob);
    let mut stderr = io::stderr().lock();
    if args.json {
        writeln!(stderr, "{}", serde_json::to_string(&summary)?)?;
    } else {
        write!(stderr, "{summary}")?;
    }
    Ok(())
}

struct MeasuredPrompt {
    scored: ScoredPrompt,
    conflict: Conflict,
}

fn measure_all(args: &DetectArgs) -> Result<Vec<MeasuredPrompt>, InputError> {
    let mut measurer = Measurer::default();
    let file = if is_stream(&args.input) { "stdin".to_owned() } else { args.input.display().to_string() };
    let measured = rows::read(&args.input, &args.map, args.logprob)?.into_iter().map(|scored| {
        let conflict = measurer.measure(&scored.rewards, &scored.logprobs).map_err(|error| {
            let error = FieldError::new("completions", FieldErrorKind::Invalid, error.to_string());
            row_error(&file, scored.line, error)
        })?;
        Ok(MeasuredPrompt { scored, conflict })
    });
    measured.collect()
}

/// One line of output.
#[derive(Serialize)]
struct DetectedPrompt<'a> {
    prompt_id: &'a str,
    degenerate: bool,
    pacs: &'a [f64],
    mean_abs_pacs: f64,
    kendall_tau: Option<f64>,
    kendall_tau_distance: Option<f64>,
    concordant: u64,
    discordant: u64,
    tied: u64,
    selected: &'a [usize],
    /// Indices of two completions each; only under a rule that selects comparisons.
    #[serde(skip_serializing_if = "Option::is_none")]
    selected_pairs: Option<&'a [[usize; 2]]>,
    /// The other columns of the input.
    #[serde(flatten)]
    rest: &'a Map<String, Value>,
}

/// The figures of a line of output, which replace columns of the same names.
const FIGURES: [&str; 10] = [
    "degenerate",
    "pacs",
    "mean_abs_pacs",
    "kendall_tau",
    "kendall_tau_distance",
    "concordant",
    "discordant",
    "tied",
    "selected",
    "selected_pairs",
];

fn write_all(
    output: &Path,
    prompts: &mut [MeasuredPrompt],
    selection: &Selection,
) -> Result<(), OutputError> {
    let mut writer = JsonLinesWriter::create(output)?;
    let pairs = |index: usize| selection.pairs.as_ref().map(|pairs| pairs[index].as_slice());
    for (index, MeasuredPrompt { scored, conflict }) in prompts.iter_mut().enumerate() {
        for figure in FIGURES {
            scored.rest.shift_remove(figure);
        }
        writer.write(&DetectedPrompt {
            prompt_id: &scored.prompt_id,
            degenerate: conflict.degenerate,
            pacs: &conflict.pacs,
            mean_abs_pacs: conflict.mean_abs_pacs,
            kendall_tau: conflict.kendall_tau,
            kendall_tau_distance: conflict.kendall_tau_distance,
            concordant: conflict.concordant,
            discordant: conflict.discordant,
            tied: conflict.tied,
            selected: &selection.completions[index],
            selected_pairs: pairs(index),
            rest: &scored.rest,
        })?;
    }
    writer.finish()
}
