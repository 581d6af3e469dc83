//! `dissent log`: verifies, shows, compares, copies and restores event logs.

mod archive;
mod backup;
mod diff;
mod output;
mod table;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError, LogPart};
use dissent_storage::{Salvage, transfer};
use serde_json::json;

use crate::cli::experiment_arg::{self, ExperimentArg, ExperimentRef};
use crate::cli::paths;
use crate::error::BadInput;
use crate::history;
use output::print_line;

use crate::history::table::{COLUMNS, Table};
use crate::log_access::open::{self, ReadLog};

/// Verify, show, compare, export, import and back up the event log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent log verify
  dissent log tail --experiment tone-demo -n 5
  dissent log tail --experiment experiment.toml         of a configuration, in its data folder
  dissent log export --experiment tone-demo --output tone-demo.events.jsonl
  dissent --data-dir ./copy log import tone-demo.events.jsonl
  dissent log export --salvage --output saved.events.jsonl   the sound part of a damaged log
  dissent log export --table scores scores.jsonl        flat rows, for pandas, pyarrow or duckdb
  dissent log export --table pairs --experiment experiment.toml pairs.jsonl     one row a pair; pandas.read_json(…, lines=True)
  dissent log diff tone-demo tone-demo-2                the differences of two runs
  dissent log diff ./here:tone-demo ./there:tone-demo   one experiment in two data folders
  dissent log backup ./backup-monday                    also while `dissent serve` has the log open
  dissent log archive tone-demo --to ./archive --remove")]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
    /// Print as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum LogCommand {
    /// Check the whole log: checksums, positions, indices, the tail file
    Verify,
    /// Count events, streams and bytes
    Stat,
    /// Print the newest events
    Tail {
        /// Number of events.
        #[arg(short = 'n', long, default_value_t = 10)]
        count: u64,
        /// Only events of this experiment, given by name or configuration.
        #[arg(long, value_name = "EXPERIMENT|CONFIG.toml")]
        experiment: Option<ExperimentArg>,
    },
    /// Write events as JSON Lines: lossless, or as a flat table
    #[command(after_help = COLUMNS)]
    Export {
        /// Only events of this experiment, given by name or configuration.
        #[arg(long, value_name = "EXPERIMENT|CONFIG.toml")]
        experiment: Option<ExperimentArg>,
        /// Write flat rows of this kind for data frames; `import` cannot read them.
        #[arg(long, value_enum)]
        table: Option<Table>,
        /// Output file; `-` is stdout.
        #[arg(value_parser = crate::cli::paths::path(), default_value = "-", value_name = "FILE", conflicts_with = "output")]
        file: PathBuf,
        /// Output file, as an option.
        #[arg(value_parser = crate::cli::paths::path(), long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write the sound events of a damaged log, and report the lost ones on stderr.
        #[arg(long, conflicts_with_all = ["experiment", "table"])]
        salvage: bool,
    },
    /// Show where two experiments differ; the exit code is 1 if they do
    #[command(after_help = DIFF_HELP)]
    Diff {
        /// First experiment: NAME, DATA-FOLDER:NAME, or CONFIG.toml.
        a: ExperimentRef,
        /// Second experiment, in the same form.
        b: ExperimentRef,
    },
    /// Add the events of an export; events that the log already has stay unchanged
    Import {
        /// File written by `dissent log export`.
        #[arg(value_parser = crate::cli::paths::path(), value_name = "FILE")]
        file: PathBuf,
    },
    /// Copy finished experiments to another data folder, and optionally remove them from this log
    Archive(archive::ArchiveArgs),
    /// Restore a backup as the log of a data folder that has none
    Restore {
        /// Folder of the backup.
        #[arg(value_parser = crate::cli::paths::path(), value_name = "DIR")]
        from: PathBuf,
    },
    /// Copy the log to a new folder, also while a server has it open; see `restore`
    Backup(backup::BackupArgs),
}

const DIFF_HELP: &str = "\
Events are matched by their subject, not by their position, because workers finish in any order. Names of experiments, times and
ids are not compared. The output shows:
  - how many events at the start of the streams are the same, and the first event that differs;
  - counts by event type, and the fields that differ, with the largest difference of a number;
  - the hashes of the final states.";

pub(crate) fn run(data: Option<&Path>, args: &LogArgs) -> anyhow::Result<()> {
    let data_dir = &paths::data_dir(data);
    match &args.command {
        LogCommand::Verify => verify(&open::read_log(data_dir)?, args.json),
        LogCommand::Stat => stat(&open::read_log(data_dir)?, args.json),
        LogCommand::Tail { count, experiment } => {
            let (experiment, data_dir) = experiment_arg::optional(experiment.as_ref(), data)?;
            tail(&*open::read_log(&data_dir)?, *count, experiment.as_ref(), args.json)
        }
        LogCommand::Export { file, output, salvage: true, .. } => {
            salvage(data_dir, output.as_ref().unwrap_or(file))
        }
        LogCommand::Export { experiment, table, file, output, .. } => {
            let (experiment, data_dir) = experiment_arg::optional(experiment.as_ref(), data)?;
            export(&data_dir, experiment.as_ref(), *table, output.as_ref().unwrap_or(file))
        }
        LogCommand::Diff { a, b } => diff::run(data, a, b, args.json),
        LogCommand::Archive(archive) => archive::run(data, archive, args.json),
        LogCommand::Restore { from } => archive::restore(data_dir, from, args.json),
        LogCommand::Import { file } => import(data_dir, file, args.json),
        LogCommand::Backup(backup) => backup::run(data_dir, backup, args.json),
    }
}

fn verify(log: &ReadLog, as_json: bool) -> anyhow::Result<()> {
    let report = log.verify()?;
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| json!({ "position": finding.position, "what": finding.what }))
        .collect();
    let value = json!({
        "sound": report.is_sound(),
        "events": report.sound_events,
        "head": report.head,
        "streams": report.streams,
        "findings": findings,
    });
    if report.is_sound() {
        let text = format!("sound: {} events, {}", report.sound_events, experiments(report.streams));
        return print_line(as_json, &value, &text);
    }
    let lines: Vec<String> = report
        .findings
        .iter()
        .map(|finding| match finding.position {
            Some(position) => format!("position {position}: {}", finding.what),
            None => finding.what.clone(),
        })
        .collect();
    print_line(as_json, &value, &lines.join("\n"))?;
    let summary =
        format!("{} findings, the first: {}", lines.len(), lines.first().map_or("", String::as_str));
    Err(LogError::corrupt(LogPart::Events, summary).into())
}

fn stat(log: &ReadLog, as_json: bool) -> anyhow::Result<()> {
    let stat = log.stat()?;
    let value = json!({
        "events": stat.events,
        "streams": stat.streams,
        "bytes_on_disk": stat.bytes_on_disk,
        "body_bytes": stat.body_bytes,
        "first_time_us": stat.first_time_us,
        "last_time_us": stat.last_time_us,
        "events_by_type": stat.events_by_type,
        "experiments": log.streams()?.iter().map(|(name, last)| json!({ "name": name, "events": last })).collect::<Vec<_>>(),
    });
    if as_json {
        return print_line(true, &value, "");
    }
    let mut text = format!(
        "{} events, {}, {:.1} MiB on disk for {:.1} MiB of events",
        stat.events,
        experiments(stat.streams),
        mib(stat.bytes_on_disk),
        mib(stat.body_bytes)
    );
    for (event_type, count) in &stat.events_by_type {
        text.push_str(&format!("\n  {count:>9}  {event_type}"));
    }
    print_line(false, &value, &text)
}

fn experiments(count: u64) -> String {
    format!("{count} experiment{}", if count == 1 { "" } else { "s" })
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn tail(
    log: &dyn EventLog,
    count: u64,
    experiment: Option<&ExperimentId>,
    as_json: bool,
) -> anyhow::Result<()> {
    let limit = usize::try_from(count)?;
    let events = match experiment {
        None => log.read(log.head().saturating_sub(count), limit)?,
        Some(name) => {
            open::require_experiment(log, name)?;
            let last = log.streams()?.iter().find(|(stream, _)| stream == name).map_or(0, |(_, last)| *last);
            log.read_stream(name, last.saturating_sub(count), limit)?
        }
    };
    let mut out = std::io::stdout().lock();
    for recorded in &events {
        if as_json {
            let body = recorded.decode()?.serialize_body(serde_json::value::Serializer)?;
            writeln!(out, "{}", history::envelope(recorded, &body))?;
        } else {
            let event = &recorded.event;
            writeln!(
                out,
                "{:>8}  {:<32} {:<30} by {}",
                recorded.position,
                recorded.experiment.as_str(),
                event.event_type,
                event.actor
            )?;
        }
    }
    Ok(())
}

fn export(
    data_dir: &Path,
    experiment: Option<&ExperimentId>,
    table: Option<Table>,
    output: &Path,
) -> anyhow::Result<()> {
    let log = open::read_log(data_dir)?;
    if let Some(experiment) = experiment {
        open::require_experiment(&*log, experiment)?;
    }
    if let Some(table) = table {
        return table::run(&*log, table, experiment, output);
    }
    if output == Path::new("-") {
        transfer::export(&*log, experiment, &mut std::io::stdout().lock())?;
    } else {
        transfer::export_to(&*log, experiment, output)?;
    }
    Ok(())
}

fn salvage(data_dir: &Path, output: &Path) -> anyhow::Result<()> {
    let salvage = Salvage::of(&open::existing_log_dir(data_dir)?)?;
    for finding in salvage.lost() {
        tracing::warn!(event_seq = finding.position, error = finding.what, "skipping damaged event");
    }
    match salvage.promised() {
        Some(promised) => tracing::info!(saved = salvage.events(), acknowledged = promised, "saved events"),
        None => tracing::info!(
            saved = salvage.events(),
            "saved events; the number of acknowledged events is unknown"
        ),
    }
    if output == Path::new("-") {
        transfer::export_salvage(&salvage, &mut std::io::stdout().lock())?;
    } else {
        transfer::export_salvage_to(&salvage, output)?;
    }
    Ok(())
}

fn import(data_dir: &Path, file: &Path, as_json: bool) -> anyhow::Result<()> {
    // Checked before the log is opened, which would create one.
    if !file.is_file() {
        return Err(BadInput(format!(
            "{} is not a file: give one that `dissent log export` wrote",
            file.display()
        ))
        .into());
    }
    let log = open::open_for_writing(data_dir)?;
    let imported = transfer::import(&log, file)?;
    print_line(
        as_json,
        &json!({ "added": imported.added, "known": imported.known }),
        &format!("{} events added, {} already in the log", imported.added, imported.known),
    )
}
