//! `dissent completions`: completions for a shell.

use std::io::Write as _;

use clap::CommandFactory;
use clap_complete::Shell;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dissent completions bash > ~/.local/share/bash-completion/completions/dissent\n  \
                        dissent completions fish > ~/.config/fish/completions/dissent.fish"
)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run<Cli: CommandFactory>(args: &CompletionsArgs) -> anyhow::Result<()> {
    // Not straight to stdout: a closed one would be a panic.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dissent", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
