//! `dissent experiment start | pause | resume | cancel`: orders to an experiment, whether or not a server is
//! at work on it.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use dissent_actors::{CommandError, CommandOutcome, command_in_log};
use dissent_domain::id::ExperimentId;
use dissent_domain::operator::{Action, BY_BYTES_MAX, ExperimentStatus, OperatorCommand, REASON_BYTES_MAX};
use dissent_storage::{SledLog, wait};
use serde::Deserialize as _;
use serde_json::json;

use super::super::server::{LogAccess, Server, ServerArgs};
use crate::cli::paths;
use crate::error::BadInput;
use crate::log_access::open;

/// Longest wait for a server to decide and to make it durable.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment pause tone-demo --reason 'the GPU is needed'
  dissent experiment resume tone-demo --server http://127.0.0.1:9465
  DISSENT_CONTROL_TOKEN=... dissent experiment cancel tone-demo --server http://server:9464

Where a `dissent serve` has the event log, it is asked over its HTTP; else the log is written to directly. What is in hand when an
experiment is paused is finished and recorded, a training ends at its next step with a checkpoint, people's judgements are still taken in,
and it stays paused, whoever serves or runs it, until it is resumed. Its results are those that it would have had without. Cancelled is
final.")]
pub(super) struct OperatorArgs {
    /// Name of the experiment.
    experiment: ExperimentId,
    /// Who asks for it, for people to read.
    #[arg(long, env = "USER", default_value = "", hide_env_values = true)]
    by: String,
    /// Why, for people to read.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(data_dir: &Path, action: Action, args: &OperatorArgs, as_json: bool) -> anyhow::Result<()> {
    check_length("--by", &args.by, BY_BYTES_MAX)?;
    check_length("--reason", args.reason.as_deref().unwrap_or_default(), REASON_BYTES_MAX)?;
    let CommandOutcome { status, changed } = match args.server.log_access(data_dir)? {
        LogAccess::Here(log) => here(&log, action, args)?,
        LogAccess::Server(server) => there(&server, action, args)?,
    };
    let mut out = std::io::stdout().lock();
    let name = &args.experiment;
    if as_json {
        return Ok(writeln!(out, "{}", json!({ "experiment": name, "state": status, "changed": changed }))?);
    }
    let already = if changed { "" } else { " already" };
    writeln!(out, "{name} {}", said(status, already))?;
    if changed && status == ExperimentStatus::Paused {
        let option = args.server.option().unwrap_or_else(|| paths::data_option(data_dir));
        writeln!(out, "to go on: dissent experiment resume {name}{option}")?;
    }
    Ok(())
}

/// Refuses words that the rules refuse, before anybody is asked: a server would only speak of its own limits.
pub(super) fn check_length(option: &str, words: &str, bytes_max: usize) -> Result<(), BadInput> {
    if words.len() > bytes_max {
        return Err(BadInput(format!("{option} is longer than {bytes_max} bytes")));
    }
    Ok(())
}

fn said(status: ExperimentStatus, already: &str) -> String {
    match status {
        ExperimentStatus::Running => format!("goes on{already}"),
        ExperimentStatus::Created => format!("is{already} waiting for its start"),
        ExperimentStatus::Paused => format!("is{already} paused"),
        ExperimentStatus::Cancelled => format!("is{already} cancelled"),
        ExperimentStatus::Finished => format!("is{already} finished"),
    }
}

fn here(log: &SledLog, action: Action, args: &OperatorArgs) -> anyhow::Result<CommandOutcome> {
    let OperatorArgs { experiment, by, reason, .. } = args;
    open::require_experiment(log, experiment)?;
    let order = OperatorCommand { action, by: by.clone(), reason: reason.clone() };
    wait(command_in_log(log, experiment, &order)).map_err(|error| match error {
        CommandError::Rejected { .. } | CommandError::Unknown(_) => BadInput(error.to_string()).into(),
        CommandError::Load(_) | CommandError::Log(_) | CommandError::Gone => error.into(),
    })
}

fn there(server: &Server, action: Action, args: &OperatorArgs) -> anyhow::Result<CommandOutcome> {
    let path = format!("/experiments/{}/{}", args.experiment, action.name());
    let said = server.post(&path, json!({ "by": args.by, "reason": args.reason }), PATIENCE)?;
    let status =
        ExperimentStatus::deserialize(&said["state"]).context("the server's answer cannot be read")?;
    Ok(CommandOutcome { status, changed: said["changed"].as_bool().unwrap_or_default() })
}
