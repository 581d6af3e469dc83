//! The archive by schedule: ended experiments are copied to another data folder. Nothing is removed here:
//! replacing the log is an operator's act (`dissent log archive --remove`).

use std::time::Duration;

use anyhow::Context as _;
use dissent_domain::event::EventType;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::replay::Replay;
use dissent_storage::{SledLog, SledOptions, transfer};

use crate::config::ArchiveConfig;
use crate::history;
use crate::log_access::open;

/// Interval at which a server looks for experiments to archive.
pub(super) const INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Copies every experiment that ended long enough ago to the archive, and checks the copy: every event
/// against its original, and every decision. Returns the experiments that were copied. Blocks.
///
/// # Errors
/// If a log cannot be read or written, or a copy differs.
pub(super) fn archive_due(
    log: &dyn EventLog,
    config: &ArchiveConfig,
    now_us: u64,
) -> anyhow::Result<Vec<ExperimentId>> {
    let age = Duration::from_secs(config.after_days * 24 * 60 * 60);
    let ended_before = now_us.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
    let mut due = Vec::new();
    for (experiment, last) in log.streams()? {
        if is_ended(log, &experiment, last, ended_before)? {
            due.push((experiment, last));
        }
    }
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let folder = open::log_dir(&config.folder);
    let archive = SledLog::open(&folder, &SledOptions::default())
        .with_context(|| format!("failed to open the archive {}", folder.display()))?;
    let archived = archive.streams()?;
    let mut copied = Vec::new();
    for (experiment, last) in due {
        if archived.iter().any(|(name, there)| *name == experiment && *there == last) {
            continue;
        }
        copy(log, &archive, &experiment).with_context(|| format!("failed to archive {experiment}"))?;
        copied.push(experiment);
    }
    archive.close()?;
    Ok(copied)
}

/// Whether the last event of an experiment ends it, and is old enough.
fn is_ended(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    last: u64,
    before_us: u64,
) -> anyhow::Result<bool> {
    let Some(recorded) = log.read_stream(experiment, last.saturating_sub(1), 1)?.pop() else {
        return Ok(false);
    };
    let kind = EventType::from_name(&recorded.event.event_type);
    let ends = matches!(kind, Some(EventType::ExperimentFinished | EventType::ExperimentCancelled));
    Ok(ends && recorded.event.time_us <= before_us)
}

fn copy(log: &dyn EventLog, archive: &SledLog, experiment: &ExperimentId) -> anyhow::Result<()> {
    transfer::copy_stream(log, archive, experiment)?;
    transfer::same(log, archive, &|name| name == experiment)?;
    let mut replay = Replay::verifying();
    history::each(archive, experiment, None, &mut |recorded| Ok(replay.apply(recorded)?)).map(drop)
}
