//! `dissent log`: looks after the event log itself.

mod archive;
mod backup;
mod diff;
mod output;
mod table;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use dissent_storage::{Salvage, SledLog, SledOptions, StorageError, transfer};
use serde_json::json;

use crate::error::BadInput;
use output::say;

use crate::history::table::{COLUMNS, Table};
use crate::log_access::open;

/// Verify, look at, compare, export and import the event log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent log verify
  dissent log tail --experiment tone-demo -n 5
  dissent log export --experiment tone-demo --output tone-demo.events.jsonl
  dissent --data-dir ./copy log import tone-demo.events.jsonl
  dissent log export --salvage --output saved.events.jsonl   what is sound of a damaged log
  dissent log export --table scores scores.jsonl        flat rows, for pandas, pyarrow or duckdb
  dissent log diff tone-demo tone-demo-2                why do these two runs differ?
  dissent log diff ./here:tone-demo ./there:tone-demo   the same experiment in two data folders
  dissent log backup ./backup-monday                    even while `dissent serve` has the log
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
    /// Read everything and check it: checksums, positions, indices, the durable mark
    Verify,
    /// Count events, streams and bytes; of a copy, which is compact, while another process has the log
    Stat,
    /// Print the newest events
    Tail {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 10)]
        count: u64,
        /// Of one experiment only.
        #[arg(long)]
        experiment: Option<ExperimentId>,
    },
    /// Write events as JSON lines: without loss, or as a flat table
    #[command(after_help = COLUMNS)]
    Export {
        /// One experiment only.
        #[arg(long)]
        experiment: Option<ExperimentId>,
        /// Flat rows of one kind for data frames, instead of what `import` takes.
        #[arg(long, value_enum)]
        table: Option<Table>,
        /// Where to write; `-` is stdout.
        #[arg(default_value = "-", value_name = "FILE", conflicts_with = "output")]
        file: PathBuf,
        /// The same.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Of a damaged log: write what is sound, and say what is not.
        #[arg(long, conflicts_with_all = ["experiment", "table"])]
        salvage: bool,
    },
    /// Say where two experiments differ, and exit with 1 if they do
    #[command(after_help = DIFF_HELP)]
    Diff {
        /// EXPERIMENT, or DATA-FOLDER:EXPERIMENT.
        a: diff::Named,
        /// The same.
        b: diff::Named,
    },
    /// Add the events of an export; known ones stay as they are
    Import {
        /// The export.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Copy finished experiments to another data folder, and take them out of this log if asked
    Archive(archive::ArchiveArgs),
    /// Make a backup the log of a data folder that has none
    Restore {
        /// The backup's folder.
        #[arg(value_name = "DIR")]
        from: PathBuf,
    },
    /// Copy the log to a new folder, even while a server is at work on it; `restore` makes it the log of a
    /// data folder
    Backup(backup::BackupArgs),
}

const DIFF_HELP: &str = "\
Events are matched by what they are about, not by their place: workers finish in any order. Names of experiments, times and ids
are no difference. What is said: up to where the streams are the same, the first event that differs and how, counts by kind of
event, the fields that differ with the largest difference of a number, and the hashes of the final states.";

pub(crate) fn run(data_dir: &Path, args: &LogArgs) -> anyhow::Result<()> {
    match &args.command {
        LogCommand::Verify => verify(&open::open_log(data_dir)?, args.json),
        LogCommand::Stat => stat(&*open::read_log(data_dir)?, args.json),
        LogCommand::Tail { count, experiment } => {
            tail(&*open::read_log(data_dir)?, *count, experiment.as_ref(), args.json)
        }
        LogCommand::Export { file, output, salvage: true, .. } => {
            salvage(data_dir, output.as_ref().unwrap_or(file))
        }
        LogCommand::Export { experiment, table, file, output, .. } => {
            export(data_dir, experiment.as_ref(), *table, output.as_ref().unwrap_or(file))
        }
        LogCommand::Diff { a, b } => diff::run(data_dir, a, b, args.json),
        LogCommand::Archive(archive) => archive::run(data_dir, archive, args.json),
        LogCommand::Restore { from } => archive::restore(data_dir, from, args.json),
        LogCommand::Import { file } => import(data_dir, file, args.json),
        LogCommand::Backup(backup) => backup::run(data_dir, backup, args.json),
    }
}

fn verify(log: &SledLog, as_json: bool) -> anyhow::Result<()> {
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
        return say(as_json, &value, &text);
    }
    let lines: Vec<String> = report
        .findings
        .iter()
        .map(|finding| match finding.position {
            Some(position) => format!("position {position}: {}", finding.what),
            None => finding.what.clone(),
        })
        .collect();
    say(as_json, &value, &lines.join("\n"))?;
    let summary =
        format!("{} findings, the first: {}", lines.len(), lines.first().map_or("", String::as_str));
    Err(LogError::Corrupt(summary).into())
}

fn stat(log: &SledLog, as_json: bool) -> anyhow::Result<()> {
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
        return say(true, &value, "");
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
    say(false, &value, &text)
}

fn experiments(count: u64) -> String {
    format!("{count} experiment{}", if count == 1 { "" } else { "s" })
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn tail(log: &SledLog, count: u64, experiment: Option<&ExperimentId>, as_json: bool) -> anyhow::Result<()> {
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
            writeln!(out, "{}", envelope(recorded, &body))?;
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

fn envelope(recorded: &Recorded, body: &serde_json::Value) -> serde_json::Value {
    let event = &recorded.event;
    json!({
        "position": recorded.position,
        "experiment": recorded.experiment,
        "version": recorded.version,
        "id": event.id,
        "causation": event.causation,
        "actor": event.actor,
        "time_us": event.time_us,
        "event_type": event.event_type,
        "schema_version": event.schema_version,
        "body": body,
    })
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
        tracing::warn!(event_seq = finding.position, error = finding.what, "an event is lost");
    }
    match salvage.promised() {
        Some(promised) => tracing::info!(saved = salvage.events(), acknowledged = promised, "events saved"),
        None => tracing::info!(saved = salvage.events(), "events saved; how many there were is lost, too"),
    }
    if output == Path::new("-") {
        transfer::export_salvage(&salvage, &mut std::io::stdout().lock())?;
    } else {
        transfer::export_salvage_to(&salvage, output)?;
    }
    Ok(())
}

fn import(data_dir: &Path, file: &Path, as_json: bool) -> anyhow::Result<()> {
    // Before a log is made for it.
    if !file.is_file() {
        return Err(
            BadInput(format!("{} is not a file that an export could be read from", file.display())).into()
        );
    }
    let log = SledLog::open(open::log_dir(data_dir), &SledOptions::default())?;
    let imported = transfer::import(&log, file).map_err(|error| {
        let bad_line = matches!(error, StorageError::Import { .. });
        if bad_line { anyhow::Error::new(BadInput(error.to_string())) } else { error.into() }
    })?;
    say(
        as_json,
        &json!({ "added": imported.added, "known": imported.known }),
        &format!("{} events added, {} were there already", imported.added, imported.known),
    )
}
