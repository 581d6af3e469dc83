//! `cargo xtask faults`: the fault campaign, as long as wanted.

use anyhow::Result;
use clap::Args;

use crate::process::{cargo, complete};

#[derive(Args)]
pub(crate) struct FaultsOptions {
    /// Rounds: an experiment each, with seven faults
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// The seed of the first round; the next have those that follow
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs the campaign's test, with its output as it comes.
pub(crate) fn run(options: &FaultsOptions) -> Result<()> {
    crate::fetch::fetch_all()?;
    crate::packages::ensure_make();
    crate::packages::ensure_rabbitmq();
    let mut test = cargo();
    // The whole workspace: then what `cargo xtask test` built need not be built again with other features.
    test.args(["test", "--workspace", "--test", "faults", "--", "--nocapture"]);
    test.env("DISSENT_FAULTS_ROUNDS", options.rounds.to_string());
    complete(test.env("DISSENT_FAULTS_SEED", options.seed.to_string()))
}
