//! `dissent log backup`: a copy of the log, of a folder at rest or of one that a server is at work on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use dissent_domain::log::LogError;
use dissent_storage::SledLog;
use serde_json::json;

use super::super::server::{LogAccess, Server, ServerArgs};
use super::output::say;
use crate::error::BadInput;
use crate::log_access::backups;

/// Longest wait for a server to copy its log: some hundred thousand events take a second.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent log backup ./backup-monday
  dissent log backup                       to a new folder in `backups` of the data folder
  dissent log backup --server http://127.0.0.1:9465
  dissent --data-dir ./other log restore ./backup-monday

Where a `dissent serve` has the log, it makes the backup while it goes on, in `backups` of its data folder, and the backup is
then moved to DIR if that is on the same disk. A server that was named with --server may be elsewhere: there it stays where it is.

A backup is of the log alone. Adapters, checkpoints and prompts are in `artifacts` of the data folder, whose files never change once they
are written: copy that folder after the log, with any tool, and put it beside the restored log.")]
pub(super) struct BackupArgs {
    /// The folder, which must not exist [default: a new one in `backups` of the data folder]
    #[arg(value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(data_dir: &Path, args: &BackupArgs, as_json: bool) -> anyhow::Result<()> {
    let (events, path) = match args.server.log_access(data_dir)? {
        LogAccess::Here(log) => here(&log, data_dir, args.to.as_deref())?,
        LogAccess::Server(server) => there(&server, args.to.as_deref())?,
    };
    let value = json!({ "events": events, "path": path });
    say(as_json, &value, &format!("{events} events in {}", path.display()))
}

fn here(log: &SledLog, data_dir: &Path, to: Option<&Path>) -> anyhow::Result<(u64, PathBuf)> {
    let to = to.map_or_else(|| backups::new_folder(data_dir), Path::to_owned);
    let events = log.backup(&to).map_err(|error| {
        if matches!(error, LogError::Exists(_)) {
            BadInput(error.to_string()).into()
        } else {
            anyhow::Error::new(error)
        }
    })?;
    Ok((events, to))
}

fn there(server: &Server, to: Option<&Path>) -> anyhow::Result<(u64, PathBuf)> {
    if let Some(to) = to {
        if !server.is_of_this_folder() {
            let reason = "a server that is named with --server chooses the folder itself: leave DIR out";
            return Err(BadInput(reason.to_owned()).into());
        }
        if to.exists() {
            return Err(BadInput(format!("{} exists: back up to a new directory", to.display())).into());
        }
    }
    let said = server.post("/backup", json!({}), PATIENCE)?;
    let made = said["path"].as_str().zip(said["events"].as_u64());
    let (made, events) = made.context("the server's answer cannot be read")?;
    let Some(to) = to else { return Ok((events, made.into())) };
    std::fs::rename(made, to)
        .with_context(|| format!("the backup is in {made}: failed to move it to {}", to.display()))?;
    Ok((events, to.to_owned()))
}
