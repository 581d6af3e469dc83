//! `dissent experiment`: lists, creates and forks experiments, and gives operator commands.

mod create;
mod fork;
mod list;
mod operator;
mod show;

use std::path::Path;

use dissent_domain::id::ExperimentId;
use dissent_domain::operator::Action;

use crate::cli::paths;
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
  dissent experiment show tone-demo --at 120 --json | jq .plan
  dissent experiment fork tone-demo --at 482 --as tone-budget --set conflict.budget=40")]
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
    /// List every experiment in the log with its state and progress
    List,
    /// Show the plan and the rounds of an experiment
    Show {
        /// Name of the experiment.
        experiment: ExperimentId,
        /// Position of the log up to which events count [default: the end]
        #[arg(long, value_name = "POSITION")]
        at: Option<u64>,
    },
    /// Create an experiment that shares the history of another one and continues with other settings
    Fork(fork::ForkArgs),
}

pub(crate) fn run(data: Option<&Path>, args: &ExperimentArgs) -> anyhow::Result<()> {
    let data_dir = &paths::data_dir(data);
    match &args.command {
        ExperimentCommand::Create(create) => create::run(data, create, args.json),
        ExperimentCommand::Start(command) => operator::run(data_dir, Action::Start, command, args.json),
        ExperimentCommand::Pause(command) => operator::run(data_dir, Action::Pause, command, args.json),
        ExperimentCommand::Resume(command) => operator::run(data_dir, Action::Resume, command, args.json),
        ExperimentCommand::Cancel(command) => operator::run(data_dir, Action::Cancel, command, args.json),
        ExperimentCommand::List => list::run(&*open::read_log(data_dir)?, args.json),
        ExperimentCommand::Show { experiment, at } => {
            show::run(&*open::read_log(data_dir)?, experiment, *at, args.json)
        }
        ExperimentCommand::Fork(fork) => fork::run(&open::open_log(data_dir)?, fork, args.json),
    }
}
