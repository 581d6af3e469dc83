//! `dissent log backup`: copies a log that no process has open, or has the process copy the log that it has
//! open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use dissent_storage::SledLog;
use serde_json::json;

use super::super::server::{LogAccess, ServerArgs};
use super::output::print_line;
use crate::client::Server;
use crate::error::BadInput;
use crate::log_access::backups;
use crate::log_access::door::LocalDoor;

/// Longest wait for a server to copy its log. Several hundred thousand events take a second.
const BACKUP_TIMEOUT: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent log backup ./backup-monday
  dissent log backup                       to a new folder in `backups` of the data folder
  dissent log backup --server http://127.0.0.1:9465
  dissent --data-dir ./other log restore ./backup-monday

While another process has the log open, that process makes the backup without stopping, in `backups` of its data folder. The command
then moves the backup to DIR, which must be on the same disk. With --server the backup stays in the server's folder.

A backup holds the log and the accounts of a server. Adapters, checkpoints and prompts are files in `artifacts` of the data folder, and never change once
written. Copy that folder after the log, with any tool, and put it beside the restored log.")]
pub(super) struct BackupArgs {
    /// Folder of the backup, which must not exist [default: a new one in `backups` of the data folder]
    #[arg(value_parser = crate::cli::paths::path(), value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(data_dir: &Path, args: &BackupArgs, as_json: bool) -> anyhow::Result<()> {
    let (events, path) = match args.server.log_access(data_dir)? {
        LogAccess::Here(log) => back_up(log, data_dir, args.to.as_deref())?,
        LogAccess::Server(server) => back_up_on_server(&server, args.to.as_deref())?,
    };
    let value = json!({ "events": events, "path": path });
    print_line(as_json, &value, &format!("{events} events in {}", path.display()))
}

fn back_up(log: SledLog, data_dir: &Path, to: Option<&Path>) -> anyhow::Result<(u64, PathBuf)> {
    let log = Arc::new(log);
    // The copy of a long log takes a while, in which other commands read it.
    let _door = LocalDoor::start(log.clone(), data_dir, Router::new())?;
    let to = to.map_or_else(|| backups::new_folder(data_dir), Path::to_owned);
    let events = backups::make(&log, data_dir, &to)?;
    Ok((events, to))
}

fn back_up_on_server(server: &Server, to: Option<&Path>) -> anyhow::Result<(u64, PathBuf)> {
    if let Some(to) = to {
        if !server.has_this_folder() {
            let reason =
                "DIR is not possible with --server, because the server chooses the folder: leave DIR out";
            return Err(BadInput(reason.to_owned()).into());
        }
        if to.exists() {
            return Err(BadInput(format!("{} already exists: name a new folder", to.display())).into());
        }
    }
    let response = server.post(server.backup_path(), json!({}), BACKUP_TIMEOUT)?;
    let made = response["path"].as_str().zip(response["events"].as_u64());
    let (made, events) = made.context("the server's response lacks `path` or `events`")?;
    let Some(to) = to else { return Ok((events, made.into())) };
    std::fs::rename(made, to)
        .with_context(|| format!("failed to move the backup from {made} to {}", to.display()))?;
    Ok((events, to.to_owned()))
}
