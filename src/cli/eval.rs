//! `dissent eval`: evaluates a reward model or a policy on held-out examples.

mod output;
mod policy;
mod reward;

/// Evaluate a reward model or a policy on held-out examples
#[derive(Debug, clap::Args)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    command: EvalCommand,
}

#[derive(Debug, clap::Subcommand)]
enum EvalCommand {
    Reward(reward::RewardArgs),
    Policy(policy::PolicyArgs),
}

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    match &args.command {
        EvalCommand::Reward(args) => reward::run(args),
        EvalCommand::Policy(args) => policy::run(args),
    }
}
