//! `dissent experiment`: what is in a log, and new experiments from old ones.

mod fork;
mod list;
mod show;

use std::path::Path;

use dissent_domain::id::ExperimentId;

/// List, look at and fork recorded experiments
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
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

pub(crate) fn run(data_dir: &Path, args: &ExperimentArgs) -> anyhow::Result<()> {
    match &args.command {
        ExperimentCommand::List => list::run(&super::open_log(data_dir)?, args.json),
        ExperimentCommand::Show { experiment, at } => {
            show::run(&super::open_log(data_dir)?, experiment, *at, args.json)
        }
        ExperimentCommand::Fork(fork) => fork::run(&super::open_log(data_dir)?, fork, args.json),
    }
}
