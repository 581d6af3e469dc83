//! `dissent experiment`: what is in a log, new experiments from old ones, and orders to those that are under
//! way.

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
    /// Check a configuration and record the experiment, to be started later
    Create(create::CreateArgs),
    /// Start what was created
    Start(operator::OperatorArgs),
    /// Begin nothing new in it until it is resumed
    Pause(operator::OperatorArgs),
    /// Let it go on
    Resume(operator::OperatorArgs),
    /// Give it up for good; what it recorded is kept
    Cancel(operator::OperatorArgs),
    /// Name, state and progress of every experiment in the log
    List,
    /// The plan of an experiment, and how far each round has come
    Show {
        /// Name of the experiment.
        experiment: ExperimentId,
        /// As of this position of the log.
        #[arg(long, value_name = "POSITION")]
        at: Option<u64>,
    },
    /// Begin a new experiment that shares the past of another one, with other settings from there on
    Fork(fork::ForkArgs),
}

pub(crate) fn run(data: Option<&Path>, args: &ExperimentArgs) -> anyhow::Result<()> {
    let data_dir = &paths::data_dir(data);
    match &args.command {
        ExperimentCommand::Create(create) => create::run(data, create, args.json),
        ExperimentCommand::Start(order) => operator::run(data_dir, Action::Start, order, args.json),
        ExperimentCommand::Pause(order) => operator::run(data_dir, Action::Pause, order, args.json),
        ExperimentCommand::Resume(order) => operator::run(data_dir, Action::Resume, order, args.json),
        ExperimentCommand::Cancel(order) => operator::run(data_dir, Action::Cancel, order, args.json),
        ExperimentCommand::List => list::run(&*open::read_log(data_dir)?, args.json),
        ExperimentCommand::Show { experiment, at } => {
            show::run(&*open::read_log(data_dir)?, experiment, *at, args.json)
        }
        ExperimentCommand::Fork(fork) => fork::run(&open::open_log(data_dir)?, fork, args.json),
    }
}
