//! `cargo xtask faults`: the fault campaign, with any number of rounds.

use anyhow::Result;
use clap::Args;

use crate::process::{cargo, complete};

#[derive(Args)]
pub(crate) struct FaultsOptions {
    /// Number of rounds: three experiments on one server, with twelve faults
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// Seed of the first round; each later round adds 1
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs the campaign's test and shows its output.
pub(crate) fn run(options: &FaultsOptions) -> Result<()> {
    crate::fetch::fetch_all()?;
    crate::packages::ensure_make();
    crate::packages::ensure_rabbitmq();
    let mut test = cargo();
    // The whole workspace, as in `cargo xtask test`: one package alone would be rebuilt with other features.
    test.args(["test", "--workspace", "--test", "faults", "--", "--nocapture"]);
    test.env("DISSENT_FAULTS_ROUNDS", options.rounds.to_string());
    complete(test.env("DISSENT_FAULTS_SEED", options.seed.to_string()))
}
