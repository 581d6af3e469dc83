//! `dissent experiment table`: writes a table of an experiment.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::cli::experiment_arg::{ExperimentArg, Target};
use crate::cli::paths::{FileOrStream, is_stream};
use crate::error::BadInput;
use crate::files;
use crate::log_access::open;
use crate::tables::{self, ExperimentTables, Format, Query, TableName};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment table tone-demo conflicts --format parquet --output conflicts.parquet
  dissent experiment table tone-demo comparisons --where 'outcome=proxy wrong' --format csv
  dissent experiment table tone-demo conflicts --where round=1 --where pacs.gte=0.5 --sort -pacs | head
  dissent experiment table tone-demo judgements --where annotator=ann

Tables: prompts, completions, conflicts, comparisons (also: pairs), judgements, trainings, evaluations. The book's chapter
on tables has their columns. A filter is COLUMN=VALUE, COLUMN.ne=VALUE, COLUMN.gte=NUMBER, COLUMN.lte=NUMBER or
COLUMN.contains=TEXT. Conflicts come strongest first, other rows in the order of the log.")]
pub(super) struct TableArgs {
    /// Name of the experiment, or its configuration.
    #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: ExperimentArg,
    /// The table.
    #[arg(value_name = "TABLE")]
    table: TableName,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// File to write; `-` is stdout.
    #[arg(value_parser = crate::cli::paths::path(), long, short, default_value = "-", value_name = "FILE")]
    output: FileOrStream,
    /// Only rows of which this holds; all of several.
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    filters: Vec<String>,
    /// Column to sort by; with `-` before it, the largest first.
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    sort: Option<String>,
}

pub(super) fn run(data: Option<&Path>, args: &TableArgs) -> anyhow::Result<()> {
    let query = query(args)?;
    let Target { experiment, data_dir } = args.experiment.target(data)?;
    let log = open::read_log(&data_dir)?;
    open::require_experiment(&*log, &experiment)?;
    let read = ExperimentTables::read(&*log, &experiment)?;
    if is_stream(&args.output) {
        let out = std::io::BufWriter::new(std::io::stdout());
        return tables::write(&read, &query, args.format, out).context("failed to write to stdout");
    }
    let mut content = Vec::new();
    tables::write(&read, &query, args.format, &mut content)?;
    files::write(content, &args.output)?;
    writeln!(std::io::stdout(), "{}", args.output.display()).context("failed to write to stdout")
}

fn query(args: &TableArgs) -> Result<Query, BadInput> {
    let pair = |filter: &String| {
        let split =
            filter.split_once('=').map(|(column, value)| (column.trim().to_owned(), value.to_owned()));
        split.ok_or_else(|| BadInput(format!("--where {filter}: use COLUMN=VALUE")))
    };
    let mut pairs: Vec<(String, String)> = args.filters.iter().map(pair).collect::<Result<_, _>>()?;
    pairs.extend(args.sort.clone().map(|sort| ("sort".to_owned(), sort)));
    Query::parse(args.table, pairs)
}
