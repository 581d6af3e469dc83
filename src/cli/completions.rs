//! `dissent completions`: completions for a shell.

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

#[expect(clippy::unnecessary_wraps, reason = "every command has the same shape")]
pub(crate) fn run<Cli: CommandFactory>(args: &CompletionsArgs) -> anyhow::Result<()> {
    clap_complete::generate(args.shell, &mut Cli::command(), "dissent", &mut std::io::stdout());
    Ok(())
}
