//! `dissent experiment start | pause | resume | cancel`: gives operator commands, through a server or in the
//! log itself.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use dissent_actors::{CommandOutcome, command_in_log};
use dissent_domain::id::ExperimentId;
use dissent_domain::operator::{Action, BY_BYTES_MAX, ExperimentStatus, OperatorCommand, REASON_BYTES_MAX};
use dissent_storage::{SledLog, wait};
use serde::Deserialize as _;
use serde_json::json;

use super::super::server::{LogAccess, ServerArgs};
use crate::cli::experiment_arg::{ExperimentArg, Target};
use crate::cli::paths;
use crate::client::Server;
use crate::error::BadInput;
use crate::log_access::open;

/// Longest wait for the response of a server, which comes when the command is durable.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a server that opens models before it responds.
const LOADING_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment pause tone-demo --reason 'the GPU is needed'
  dissent experiment resume tone-demo --server http://127.0.0.1:9465
  DISSENT_CONTROL_TOKEN=... dissent experiment cancel tone-demo --server http://server:9464

While `dissent serve` has the event log open, the command goes to the server, over the socket in the data folder. Otherwise it is
written to the log directly. A pause finishes and records the work in progress, and a training stops at its next step with a checkpoint.
Judgements are still accepted. The experiment stays paused in every process until it is resumed, and its results do not
depend on pauses. A cancellation is final.")]
pub(super) struct OperatorArgs {
    /// Name of the experiment, or its configuration.
    #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: ExperimentArg,
    /// Name of the operator, recorded with the command.
    #[arg(long, env = "USER", default_value = "", hide_env_values = true)]
    by: String,
    /// Reason, recorded with the command.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(
    data_dir: Option<&Path>,
    action: Action,
    args: &OperatorArgs,
    as_json: bool,
) -> anyhow::Result<()> {
    let Target { experiment: name, data_dir } = args.experiment.target(data_dir)?;
    check_length("--by", &args.by, BY_BYTES_MAX)?;
    check_length("--reason", args.reason.as_deref().unwrap_or_default(), REASON_BYTES_MAX)?;
    let CommandOutcome { status, changed } = match args.server.log_access(&data_dir)? {
        LogAccess::Here(log) => command_log(&log, &name, action, args)?,
        LogAccess::Server(server) => command_server(&server, &name, action, args)?,
    };
    let mut out = std::io::stdout().lock();
    if as_json {
        return Ok(writeln!(out, "{}", json!({ "experiment": name, "state": status, "changed": changed }))?);
    }
    let already = if changed { "" } else { " already" };
    writeln!(out, "{name} {}", state_words(status, already))?;
    if changed && status == ExperimentStatus::Paused {
        let option = args.server.option().unwrap_or_else(|| paths::data_option(&data_dir));
        writeln!(out, "to resume it: dissent experiment resume {name}{option}")?;
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment list                 shows halted experiments with their reasons
  dissent experiment retry tone-demo

A server halts an experiment whose step fails for good, for example because a model is missing. Mend the cause, then retry.
Other experiments are not affected. A restart of the server retries, too.")]
pub(super) struct RetryArgs {
    /// Name of the experiment, or its configuration.
    #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: ExperimentArg,
    /// Name of the operator, for the log of the server.
    #[arg(long, env = "USER", default_value = "", hide_env_values = true)]
    by: String,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn retry(data_dir: Option<&Path>, args: &RetryArgs, as_json: bool) -> anyhow::Result<()> {
    let Target { experiment: name, data_dir } = args.experiment.target(data_dir)?;
    check_length("--by", &args.by, BY_BYTES_MAX)?;
    let LogAccess::Server(server) = args.server.log_access(&data_dir)? else {
        let reason =
            format!("no server runs with the data folder {}: start one, which retries", data_dir.display());
        return Err(BadInput(reason).into());
    };
    let path = format!("/api/v1/experiments/{name}/retry");
    server.post(&path, json!({ "by": args.by }), LOADING_TIMEOUT)?;
    let mut out = std::io::stdout().lock();
    if as_json {
        return Ok(writeln!(out, "{}", json!({ "experiment": name }))?);
    }
    Ok(writeln!(out, "{name} goes on")?)
}

/// Checks the length of an option's text before a server does: the server's error would not name the option.
pub(super) fn check_length(option: &str, text: &str, bytes_max: usize) -> Result<(), BadInput> {
    if text.len() > bytes_max {
        return Err(BadInput(format!("{option} has {} bytes: use at most {bytes_max}", text.len())));
    }
    Ok(())
}

fn state_words(status: ExperimentStatus, already: &str) -> String {
    match status {
        ExperimentStatus::Running => format!("is{already} running"),
        ExperimentStatus::Created => "still waits for its start".to_owned(),
        ExperimentStatus::Paused => format!("is{already} paused"),
        ExperimentStatus::Cancelled => format!("is{already} cancelled"),
        ExperimentStatus::Finished => format!("is{already} finished"),
    }
}

fn command_log(
    log: &SledLog,
    experiment: &ExperimentId,
    action: Action,
    args: &OperatorArgs,
) -> anyhow::Result<CommandOutcome> {
    let OperatorArgs { by, reason, .. } = args;
    open::require_experiment(log, experiment)?;
    let command = OperatorCommand { action, by: by.clone(), reason: reason.clone() };
    Ok(wait(command_in_log(log, experiment, &command))?)
}

fn command_server(
    server: &Server,
    experiment: &ExperimentId,
    action: Action,
    args: &OperatorArgs,
) -> anyhow::Result<CommandOutcome> {
    let path = format!("/experiments/{experiment}/{}", action.name());
    let response = server.post(&path, json!({ "by": args.by, "reason": args.reason }), RESPONSE_TIMEOUT)?;
    let status =
        ExperimentStatus::deserialize(&response["state"]).context("failed to read the server's response")?;
    Ok(CommandOutcome { status, changed: response["changed"].as_bool().unwrap_or_default() })
}
