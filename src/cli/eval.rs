//! `dissent eval`: how good a reward model or a policy is, on examples that it has not learnt from.

mod output;
mod policy;
mod reward;

/// Evaluate a reward model or a policy
#[derive(Debug, clap::Args)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    what: EvalCommand,
}

#[derive(Debug, clap::Subcommand)]
enum EvalCommand {
    Reward(reward::RewardArgs),
    Policy(policy::PolicyArgs),
}

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    match &args.what {
        EvalCommand::Reward(args) => reward::run(args),
        EvalCommand::Policy(args) => policy::run(args),
    }
}
