//! `dissent log archive` and `dissent log restore`: retention by rotating whole folders, since a log never
//! shrinks.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use dissent_domain::replay::Replay;
use dissent_storage::{SledLog, SledOptions, transfer};
use serde_json::json;

use super::output::say;
use crate::error::BadInput;
use crate::history;
use crate::log_access::open;
use crate::text::count;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent log archive tone-2025 tone-2026 --to ./archive            copy them to the log of ./archive, and check the copy
  dissent log archive tone-2025 tone-2026 --to ./archive --remove   and take them out of this log

A log never shrinks by itself. With --remove what stays is written to a new log, checked, and takes the place of the old one,
which is kept beside it under the name that is printed: delete it when you are sure. Nothing is removed before both copies are
checked event by event. Artifacts stay where they are.")]
pub(super) struct ArchiveArgs {
    /// Names of experiments that are finished or cancelled.
    #[arg(required = true)]
    experiments: Vec<ExperimentId>,
    /// The data folder to archive to; what its log already has of these stays as it is.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Take them out of this log.
    #[arg(long)]
    remove: bool,
}

pub(super) fn run(data_dir: &Path, args: &ArchiveArgs, as_json: bool) -> anyhow::Result<()> {
    let log = open::open_log(data_dir)?;
    let archived: BTreeSet<&ExperimentId> = args.experiments.iter().collect();
    for experiment in &archived {
        open::require_experiment(&log, experiment)?;
        verify(&log, experiment, true)?;
    }
    let target = open::log_dir(&args.to);
    if target.canonicalize().is_ok_and(|target| log.dir().canonicalize().is_ok_and(|from| from == target)) {
        return Err(
            BadInput("the archive is the log itself: name another folder with --to".to_owned()).into()
        );
    }
    let is_archived = |experiment: &ExperimentId| archived.contains(experiment);
    let events = copied(&log, &target, &is_archived, true)?;
    let experiments = count(archived.len() as u64, "experiment");
    let said = format!("{experiments}, {events} events in {}", target.display());
    if !args.remove {
        return say(as_json, &json!({ "events": events, "kept": null, "old": null }), &said);
    }
    let (kept, old) = rotate(data_dir, log, &|experiment| !archived.contains(experiment))?;
    let value = json!({ "events": events, "kept": kept, "old": old });
    let text = format!(
        "{said}\nthe log has {kept} events now; the old one, with all of them, is in {}: delete it when you are sure",
        old.display()
    );
    say(as_json, &value, &text)
}

/// Refuses an experiment that is not sound, or, where asked, not finished.
fn verify(log: &dyn EventLog, experiment: &ExperimentId, finished: bool) -> anyhow::Result<()> {
    let mut replay = Replay::verifying();
    history::each(log, experiment, None, &mut |recorded| Ok(replay.apply(recorded)?))
        .with_context(|| format!("the experiment {experiment} is not archived"))?;
    if finished && !replay.experiment().is_over() {
        let reason = format!("{experiment} is not finished, nor cancelled: only what is over is archived");
        return Err(BadInput(reason).into());
    }
    Ok(())
}

/// Copies streams to the log in a folder, and checks them there: the bytes, every decision, every event
/// against its original.
fn copied(
    log: &dyn EventLog,
    target: &Path,
    chosen: &dyn Fn(&ExperimentId) -> bool,
    finished: bool,
) -> anyhow::Result<u64> {
    let copy = SledLog::open(target, &SledOptions::default())?;
    let events = transfer::copy(log, &copy, chosen)?;
    let report = copy.verify()?;
    if let Some(finding) = report.findings.first() {
        return Err(LogError::Corrupt(format!("the copy {}: {}", target.display(), finding.what)).into());
    }
    transfer::same(log, &copy, chosen)?;
    for (experiment, _) in copy.streams()?.into_iter().filter(|(experiment, _)| chosen(experiment)) {
        verify(&copy, &experiment, finished)?;
    }
    copy.close()?;
    Ok(events)
}

/// Puts a log that has only the chosen streams in the place of this one. Returns its events, and where the
/// old one is.
fn rotate(
    data_dir: &Path,
    log: SledLog,
    chosen: &dyn Fn(&ExperimentId) -> bool,
) -> anyhow::Result<(u64, PathBuf)> {
    let head = log.head();
    let here = open::log_dir(data_dir);
    let new = tempfile::Builder::new().prefix(".log-").tempdir_in(data_dir)?;
    let kept = copied(&log, new.path(), chosen, false)?;
    let old = (1_u32..)
        .map(|number| data_dir.join(format!("log.old-{number}")))
        .find(|path| !path.exists())
        .context("there is no name left for the old log")?;
    log.close()?;
    drop(log);
    std::fs::rename(&here, &old).with_context(|| format!("failed to move the log to {}", old.display()))?;
    // Between closing and moving it another process may have had it: what that wrote is in no copy.
    let grown = SledLog::open(&old, &SledOptions::default()).map(|log| log.head() != head);
    if !matches!(grown, Ok(false)) {
        std::fs::rename(&old, &here)
            .with_context(|| format!("the log could not be moved back from {}", old.display()))?;
        grown?;
        anyhow::bail!(
            "another process wrote to the log meanwhile: stop it, and archive again; nothing was removed"
        );
    }
    std::fs::rename(new.keep(), &here)
        .with_context(|| format!("failed to put the new log in place; the old one is {}", old.display()))?;
    File::open(data_dir).and_then(|dir| dir.sync_all()).context("failed to sync the data folder")?;
    Ok((kept, old))
}

/// Makes a backup the log of a data folder that has none.
pub(super) fn restore(data_dir: &Path, backup: &Path, as_json: bool) -> anyhow::Result<()> {
    // Opening a log makes one where there is none.
    if !backup.join("db").is_file() {
        return Err(BadInput(format!("there is no backup of a log in {}", backup.display())).into());
    }
    let target = open::log_dir(data_dir);
    if target.exists() {
        let reason = format!(
            "{} has a log already: restore to another data folder, or move that log away",
            data_dir.display()
        );
        return Err(BadInput(reason).into());
    }
    let log = SledLog::open(backup, &SledOptions { check_all: true, ..SledOptions::default() })?;
    let report = log.verify()?;
    if let Some(finding) = report.findings.first() {
        return Err(LogError::Corrupt(format!("the backup {}: {}", backup.display(), finding.what)).into());
    }
    let events = log.backup(&target)?;
    say(as_json, &json!({ "events": events }), &format!("{events} events in {}", target.display()))
}
