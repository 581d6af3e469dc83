//! `dissent experiment`: lists, creates and forks experiments, and gives operator commands.

mod create;
mod focus;
mod fork;
mod list;
mod operator;
mod show;
mod table;

use std::path::Path;

use dissent_domain::operator::Action;

use crate::cli::experiment_arg::{ExperimentArg, Target};
use crate::cli::paths;
use crate::cli::point_args::PointArgs;
use crate::experiment::kept_config::KeptConfigs;
use crate::log_access::open;

/// Create, list, pause, resume, cancel and fork experiments
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment create experiment.toml
  dissent experiment start tone-demo
  dissent experiment pause tone-demo --reason 'the GPU is needed'
  dissent experiment list
  dissent experiment show tone-demo
  dissent experiment show experiment.toml          by the configuration, in its data folder
  dissent experiment show tone-demo --at 120 --json | jq .plan
  dissent experiment table tone-demo conflicts --format parquet --output conflicts.parquet
  dissent experiment fork tone-demo --round 0 --before selection --as tone-budget --set conflict.budget=40")]
pub(crate) struct ExperimentArgs {
    #[command(subcommand)]
    command: ExperimentCommand,
    /// Print as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum ExperimentCommand {
    /// Check a configuration and record its experiment without starting it
    Create(create::CreateArgs),
    /// Start a created experiment
    Start(operator::OperatorArgs),
    /// Pause an experiment: no new work begins until it is resumed
    Pause(operator::OperatorArgs),
    /// Resume a paused experiment
    Resume(operator::OperatorArgs),
    /// Cancel an experiment, which is final; its history is kept
    Cancel(operator::OperatorArgs),
    /// Go on with an experiment that the server halted after a failure
    Retry(operator::RetryArgs),
    /// List every experiment in the log with its state and progress
    List,
    /// Show the plan and the rounds of an experiment
    Show {
        /// Name of the experiment, or its configuration.
        #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
        experiment: ExperimentArg,
        #[command(flatten)]
        point: PointArgs,
    },
    /// Write a table of an experiment: JSON Lines, CSV or Parquet
    Table(table::TableArgs),
    /// Create an experiment that shares the history of another one and continues with other settings
    Fork(fork::ForkArgs),
}

pub(crate) fn run(data: Option<&Path>, args: &ExperimentArgs) -> anyhow::Result<()> {
    match &args.command {
        ExperimentCommand::Create(create) => create::run(data, create, args.json),
        ExperimentCommand::Start(command) => operator::run(data, Action::Start, command, args.json),
        ExperimentCommand::Pause(command) => operator::run(data, Action::Pause, command, args.json),
        ExperimentCommand::Resume(command) => operator::run(data, Action::Resume, command, args.json),
        ExperimentCommand::Cancel(command) => operator::run(data, Action::Cancel, command, args.json),
        ExperimentCommand::Retry(retry) => operator::retry(data, retry, args.json),
        ExperimentCommand::List => {
            let data_dir = paths::data_dir(data);
            list::run(&*open::read_log(&data_dir)?.shared(), &KeptConfigs::of(&data_dir), args.json)
        }
        ExperimentCommand::Show { experiment, point } => {
            let Target { experiment, data_dir } = experiment.target(data)?;
            let log = open::read_log(&data_dir)?;
            open::require_experiment(&*log, &experiment)?;
            show::run(&*log, &experiment, point.position(&*log, &experiment)?, args.json)
        }
        ExperimentCommand::Table(table) => table::run(data, table),
        ExperimentCommand::Fork(fork) => fork::run(data, fork, args.json),
    }
}
