//! `dissent report`: writes the report of an experiment as HTML, Markdown or JSON.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::cli::experiment_arg::{ExperimentArg, Target};
use crate::cli::{interrupt, paths};
use crate::config::Config;
use crate::error::BadInput;
use crate::log_access::open;
use crate::report::{self, ReportData, ReportError, TOP_DEFAULT};
use crate::{explanation, files};
use anyhow::Context as _;
use clap::ValueEnum;

/// Report where the policy and the reward model disagree
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent report demo                               write the page, and print its path
  dissent report experiment.toml                    the same, by the configuration; also while it runs
  dissent report demo --format md --top 3           a text to paste into an issue
  dissent report demo --format json | jq .figures   every figure, for programs
  dissent report experiment.toml --explain 5        what moves the models: tokens and sentences of the top conflicts

The report needs the event log only, and the experiment may be unfinished. While a run or a server has the log open, the command
reads the log through that process.")]
pub(crate) struct ReportArgs {
    /// Name of the experiment, or its configuration.
    #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: ExperimentArg,
    /// The round, from 0 [default: the last one opened]
    #[arg(long, value_name = "R")]
    round: Option<u32>,
    /// Format of the report.
    #[arg(long, value_enum, default_value_t = Format::Html)]
    format: Format,
    /// Output file; `-` is stdout [default: reports/EXPERIMENT.html in the data folder for html, stdout for
    /// md and json]
    #[arg(value_parser = crate::cli::paths::path(), long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Texts in each list: conflicting prompts, completions that the proxy favours, and completions that the
    /// policy favours.
    #[arg(long, value_name = "N", default_value_t = TOP_DEFAULT)]
    top: usize,
    /// Run the models on the first N texts of both lists of completions: each token's log-probability, and
    /// the reward's change without each sentence. Needs a configuration, which names the models.
    #[arg(long, value_name = "N")]
    explain: Option<usize>,
    /// Configuration with the models of --explain, where the experiment is named otherwise.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "CONFIG.toml", requires = "explain")]
    models: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Markdown
    Md,
    /// JSON with every figure
    Json,
    /// One self-contained HTML file with charts, without scripts
    Html,
}

pub(crate) fn run(data_dir: Option<&Path>, args: &ReportArgs) -> anyhow::Result<()> {
    let target = args.experiment.target(data_dir)?;
    let data = read(&target, args)?;
    let content = match args.format {
        Format::Md => report::markdown(&data)?,
        Format::Json => report::json(&data)?,
        Format::Html => report::html(&data)?,
    };
    let mut stdout = std::io::stdout();
    match output(&target, args) {
        None => stdout.write_all(content.as_bytes()).context("failed to write to stdout"),
        Some(path) => {
            match args.output {
                Some(_) => files::write(&content, &path)?,
                None => files::write_in_data_folder(&content, &path)?,
            }
            writeln!(stdout, "{}", paths::shortened(&path).display()).context("failed to write to stdout")
        }
    }
}

fn read(target: &Target, args: &ReportArgs) -> anyhow::Result<ReportData> {
    let Target { experiment, data_dir } = target;
    if !open::log_dir(data_dir).is_dir() {
        let reason = format!(
            "no event log in {}: start an experiment with `dissent run CONFIG.toml`, or name the data folder with \
             --data-dir or by the configuration",
            data_dir.display()
        );
        return Err(BadInput(reason).into());
    }
    let log = open::read_log(data_dir)?;
    let data = ReportData::from_log_with_top(&*log, experiment, args.round, args.top);
    let mut data = data.map_err(|error| match error {
        ReportError::UnknownExperiment { .. } | ReportError::UnknownRound { .. } => {
            BadInput(format!("{error}{}", open::path_hint(experiment))).into()
        }
        ReportError::NoPlan(_) | ReportError::Body { .. } | ReportError::Log(_) => anyhow::Error::from(error),
    })?;
    if let Some(top) = args.explain {
        let config = Config::load(models(args)?)?;
        let cancel = interrupt::cancel_flag()?;
        explanation::explain(&mut data, top, &*log, &config, data_dir, &cancel)
            .map_err(interrupt::map_cancelled)?;
    }
    Ok(data)
}

/// Returns the configuration that names the models.
fn models(args: &ReportArgs) -> Result<&Path, BadInput> {
    match (&args.models, &args.experiment) {
        (Some(config), _) | (None, ExperimentArg::Config(config)) => Ok(config),
        (None, ExperimentArg::Name(name)) => Err(BadInput(format!(
            "--explain needs the models of {name}: name its configuration instead, or add --models CONFIG.toml"
        ))),
    }
}

/// Returns the file to write; none for stdout.
fn output(Target { experiment, data_dir }: &Target, args: &ReportArgs) -> Option<PathBuf> {
    match &args.output {
        Some(path) => (path != Path::new("-")).then(|| path.clone()),
        None if args.format == Format::Html => {
            let latest = paths::report_path(data_dir, experiment);
            // The report of an earlier round must not replace that of the latest round.
            let earlier = args.round.map(|round| format!("{experiment}-round-{round}.html"));
            Some(earlier.map_or(latest.clone(), |name| latest.with_file_name(name)))
        }
        None => None,
    }
}
