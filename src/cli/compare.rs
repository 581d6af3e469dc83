//! `dissent compare`: many runs in one table.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use clap::ValueEnum;
use dissent_storage::Snapshots;

use super::experiment_arg::{ExperimentRef, Target};
use super::paths::{self, is_stream};
use crate::compare::{self, RunComparison, RunFigures};
use crate::experiment::start::snapshots_folder;
use crate::files;
use crate::log_access::open;

/// Compare runs in one table
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent compare tone-budget tone-gap tone-margin        three experiments of one data folder
  dissent compare a.toml b.toml ./elsewhere:tone          by configuration, or in another data folder
  dissent compare tone-* --format csv --output runs.csv   every figure, for data frames

The first run is the baseline. Runs may be unfinished, or alive: figures that a run does not have yet are left out. With equal
seeds and held-out prompts, runs differ by their settings only.")]
pub(crate) struct CompareArgs {
    /// Experiments: NAME, DATA-FOLDER:NAME, or CONFIG.toml.
    #[arg(required = true, value_name = "EXPERIMENT|CONFIG.toml")]
    experiments: Vec<ExperimentRef>,
    /// Format of the table.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Output file; `-` is stdout.
    #[arg(value_parser = paths::path(), long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Table for a terminal
    Text,
    /// Markdown
    Md,
    /// Comma-separated values with every figure
    Csv,
    /// JSON with every figure
    Json,
    /// One self-contained HTML file without scripts
    Html,
}

pub(crate) fn run(data_dir: Option<&Path>, args: &CompareArgs) -> anyhow::Result<()> {
    let comparison = RunComparison::of(read(data_dir, &args.experiments)?);
    let content = match args.format {
        Format::Text => compare::text(&comparison),
        Format::Md => compare::markdown(&comparison),
        Format::Csv => compare::csv(&comparison)?,
        Format::Json => compare::json(&comparison)?,
        Format::Html => compare::html(&comparison)?,
    };
    if is_stream(&args.output) {
        return std::io::stdout().write_all(content.as_bytes()).context("failed to write to stdout");
    }
    files::write(&content, &args.output)
}

/// Largest number of logs that are read at the same time.
const THREADS_MAX: usize = 8;

/// Reads the figures of every run, in the order of the command line. Each log is opened once.
fn read(data_dir: Option<&Path>, experiments: &[ExperimentRef]) -> anyhow::Result<Vec<RunFigures>> {
    let targets: Vec<Target> =
        experiments.iter().map(|experiment| experiment.target(data_dir)).collect::<anyhow::Result<_>>()?;
    let mut folders: BTreeMap<PathBuf, Vec<(usize, &Target)>> = BTreeMap::new();
    for (index, target) in targets.iter().enumerate() {
        let folder = target.data_dir.canonicalize().unwrap_or_else(|_| target.data_dir.clone());
        folders.entry(folder).or_default().push((index, target));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let folders = Mutex::new(folders.into_values());
    let next = || folders.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> anyhow::Result<Vec<(usize, RunFigures)>> {
        let mut figures = Vec::new();
        while let Some(runs) = next() {
            figures.extend(read_folder(&runs)?);
        }
        Ok(figures)
    };
    let found = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the comparison panicked")))
        });
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let mut figures: Vec<(usize, RunFigures)> = found.into_iter().flatten().collect();
    figures.sort_by_key(|(index, _)| *index);
    Ok(figures.into_iter().map(|(_, figures)| figures).collect())
}

/// Reads the figures of runs in one data folder, each with its place on the command line.
fn read_folder(runs: &[(usize, &Target)]) -> anyhow::Result<Vec<(usize, RunFigures)>> {
    let Some((_, Target { data_dir, .. })) = runs.first() else { return Ok(Vec::new()) };
    let log = open::read_log(data_dir)?;
    let folder = snapshots_folder(data_dir);
    let snapshots = if log.is_remote() { Snapshots::read_only(folder) } else { Snapshots::new(folder) };
    let figures = runs.iter().map(|(index, Target { experiment, data_dir })| {
        open::require_experiment(&*log, experiment)?;
        let name = data_dir.display().to_string();
        Ok((*index, RunFigures::read(&*log, &snapshots, experiment, name)?))
    });
    figures.collect()
}
