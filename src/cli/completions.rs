//! `dissent completions`: completion scripts for shells.

use std::io::Write as _;

use clap::CommandFactory;
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dissent completions bash > ~/.local/share/bash-completion/completions/dissent\n  \
                        dissent completions fish > ~/.config/fish/completions/dissent.fish"
)]
pub(crate) struct CompletionsArgs {
    /// Shell that will run the script.
    shell: Shell,
}

pub(crate) fn run<Cli: CommandFactory>(args: &CompletionsArgs) -> anyhow::Result<()> {
    // Generated in memory, because `generate` panics on a closed stdout.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dissent", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
