//! `dissent log archive` and `dissent log restore`: retention by moving experiments to another log, because a
//! log never shrinks.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError, LogPart};
use dissent_domain::replay::Replay;
use dissent_storage::accounts::{self, Accounts};
use dissent_storage::{SledLog, SledOptions, transfer};
use serde_json::json;

use super::output::print_line;
use crate::cli::experiment_arg::{self, ExperimentArg};
use crate::error::BadInput;
use crate::history;
use crate::log_access::{open, ownership};
use crate::text::count;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent log archive tone-2025 tone-2026 --to ./archive            copy both to the log of ./archive, and check the copy
  dissent log archive tone-2025 tone-2026 --to ./archive --remove   also remove both from this log

A log never shrinks by itself. With --remove the command writes the remaining events to a new log, which replaces this one. The old
log stays beside it under the name that is printed: delete it when you are sure. Both copies are checked event by event before
the log is replaced. Artifacts stay where they are.")]
pub(super) struct ArchiveArgs {
    /// Finished or cancelled experiments, by name or configuration.
    #[arg(required = true, value_name = "EXPERIMENT|CONFIG.toml")]
    experiments: Vec<ExperimentArg>,
    /// Data folder of the archive. Events that its log already has stay unchanged.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR")]
    to: PathBuf,
    /// Remove the experiments from this log.
    #[arg(long)]
    remove: bool,
}

pub(super) fn run(data_dir: Option<&Path>, args: &ArchiveArgs, as_json: bool) -> anyhow::Result<()> {
    let (experiments, data_dir) = experiment_arg::in_one_folder(&args.experiments, data_dir)?;
    let data_dir = data_dir.as_path();
    let log = open::open_log(data_dir)?;
    let archived: BTreeSet<&ExperimentId> = experiments.iter().collect();
    for experiment in &archived {
        open::require_experiment(&log, experiment)?;
        verify(&log, experiment, true)?;
    }
    let target = open::log_dir(&args.to);
    if target.canonicalize().is_ok_and(|target| log.dir().canonicalize().is_ok_and(|from| from == target)) {
        return Err(BadInput("--to names the folder of this log: name another folder".to_owned()).into());
    }
    let is_archived = |experiment: &ExperimentId| archived.contains(experiment);
    let events = copy_and_check(&log, &target, &is_archived, true)?;
    let experiments = count(archived.len() as u64, "experiment");
    let archived_text = format!("{experiments}, {events} events in {}", target.display());
    if !args.remove {
        let value = json!({ "events": events, "kept": null, "old": null });
        return print_line(as_json, &value, &archived_text);
    }
    let (kept, old) = rotate(data_dir, log, &|experiment| !archived.contains(experiment))?;
    let value = json!({ "events": events, "kept": kept, "old": old });
    let text = format!(
        "{archived_text}\nthe new log has {kept} events; the old log is in {}: delete it when you are sure",
        old.display()
    );
    print_line(as_json, &value, &text)
}

/// Verifies every decision of an experiment, and if `finished`, that it is finished or cancelled.
fn verify(log: &dyn EventLog, experiment: &ExperimentId, finished: bool) -> anyhow::Result<()> {
    let mut replay = Replay::verifying();
    history::each(log, experiment, None, &mut |recorded| Ok(replay.apply(recorded)?))
        .with_context(|| format!("experiment {experiment} cannot be archived"))?;
    if finished && !replay.experiment().is_over() {
        let reason =
            format!("experiment {experiment} has not ended: finish or cancel it before you archive it");
        return Err(BadInput(reason).into());
    }
    Ok(())
}

/// Copies streams to the log in a folder and checks the copy: its bytes, every decision, and every event
/// against its original. Returns the number of events copied.
fn copy_and_check(
    log: &dyn EventLog,
    target: &Path,
    chosen: &dyn Fn(&ExperimentId) -> bool,
    finished: bool,
) -> anyhow::Result<u64> {
    let copy = SledLog::open(target, &SledOptions::default())?;
    let events = transfer::copy(log, &copy, chosen)?;
    let report = copy.verify()?;
    if let Some(finding) = report.findings.first() {
        let reason = format!("the copy {}: {}", target.display(), finding.what);
        return Err(LogError::corrupt(LogPart::Copy, reason).into());
    }
    transfer::same(log, &copy, chosen)?;
    for (experiment, _) in copy.streams()?.into_iter().filter(|(experiment, _)| chosen(experiment)) {
        verify(&copy, &experiment, finished)?;
    }
    copy.close()?;
    Ok(events)
}

/// Replaces this log by a log of the chosen streams. Returns the events of the new log and the path of the
/// old one.
fn rotate(
    data_dir: &Path,
    log: SledLog,
    chosen: &dyn Fn(&ExperimentId) -> bool,
) -> anyhow::Result<(u64, PathBuf)> {
    let head = log.head();
    let here = open::log_dir(data_dir);
    let new = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o750))
        .prefix(".log-")
        .tempdir_in(data_dir)?;
    let kept = copy_and_check(&log, new.path(), chosen, false)?;
    let old = (1_u32..)
        .map(|number| data_dir.join(format!("log.old-{number}")))
        .find(|path| !path.exists())
        .context("no free name is left for the old log")?;
    log.close()?;
    drop(log);
    std::fs::rename(&here, &old).with_context(|| format!("failed to move the log to {}", old.display()))?;
    // Another process may have written to the log between close and rename. Those events are in no copy.
    let grown = SledLog::open(&old, &SledOptions::default()).map(|log| log.head() != head);
    if !matches!(grown, Ok(false)) {
        std::fs::rename(&old, &here)
            .with_context(|| format!("failed to move the log back from {}", old.display()))?;
        grown?;
        anyhow::bail!(
            "another process wrote to the log: stop that process and archive again; nothing was removed"
        );
    }
    std::fs::rename(new.keep(), &here).with_context(|| {
        format!("failed to move the new log into place; the old log is {}", old.display())
    })?;
    File::open(data_dir).and_then(|dir| dir.sync_all()).context("failed to sync the data folder")?;
    Ok((kept, old))
}

/// Restores a backup into a data folder without a log.
pub(super) fn restore(data_dir: &Path, backup: &Path, as_json: bool) -> anyhow::Result<()> {
    // Checked first, because opening an empty folder would create a log.
    if !backup.join("db").is_file() {
        let reason =
            format!("{} holds no backup: give a folder that `dissent log backup` made", backup.display());
        return Err(BadInput(reason).into());
    }
    let target = open::log_dir(data_dir);
    if target.exists() {
        let reason = format!(
            "{} already has a log: restore to another data folder, or move that log away",
            data_dir.display()
        );
        return Err(BadInput(reason).into());
    }
    let log = SledLog::open(backup, &SledOptions { check_all: true, ..SledOptions::default() })?;
    let report = log.verify()?;
    if let Some(finding) = report.findings.first() {
        let reason = format!("the backup {}: {}", backup.display(), finding.what);
        return Err(LogError::corrupt(LogPart::Copy, reason).into());
    }
    let events = log.backup(&target)?;
    // Accounts of the data folder are newer than those of the backup.
    if !data_dir.join(accounts::FILE).exists() {
        Accounts::restore(backup, data_dir).context("failed to restore the accounts")?;
    }
    ownership::keep(data_dir);
    print_line(as_json, &json!({ "events": events }), &format!("{events} events in {}", target.display()))
}
