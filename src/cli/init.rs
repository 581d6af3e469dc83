//! `dissent init`: writes a commented configuration that runs.

mod answers;
mod template;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use self::answers::{Answers, FeedbackChoice, Questions};
use super::paths;
use crate::config::Config;
use crate::error::BadInput;
use crate::files;
use crate::memory::experiment;
use crate::text::shell_command;

/// Write a commented configuration that runs; asks on a terminal, or takes options
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent init                                     asks for prompts, models and feedback
  dissent init --name tone --prompts prompts.jsonl --policy SmolLM2.gguf --reward ./reward-model
  dissent init --prompts prompts.jsonl --policy SmolLM2.gguf --reward SmolLM2.gguf --reward-layers 6 \\
      --reward-adapter ./proxy --feedback people --held-out held-out.jsonl people.toml
  dissent run experiment.toml --dry-run            checks everything that the file names

An option that is given is not asked for. Without a terminal, every question without an option has its default, and a missing
required option is an error. Paths are written so that the file can be run from anywhere; `cache:` and `~/` stay as they are.")]
pub(crate) struct InitArgs {
    /// File to write.
    #[arg(value_parser = paths::path(), value_name = "CONFIG.toml", default_value = "experiment.toml")]
    config: PathBuf,
    #[command(flatten)]
    questions: Questions,
    /// Replace the file if it exists.
    #[arg(long)]
    overwrite: bool,
    /// Write the file without opening the prompts and the models that it names.
    #[arg(long)]
    no_check: bool,
}

pub(crate) fn run(args: &InitArgs) -> anyhow::Result<()> {
    if args.config.exists() && !args.overwrite {
        let reason =
            format!("{} exists already: name another file, or use --overwrite", args.config.display());
        return Err(BadInput(reason).into());
    }
    let asks = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let folder = args.config.parent().unwrap_or(Path::new(""));
    let answers = Answers::collect(&args.questions, &args.config, asks)?;
    let text = template::render(&answers);
    check(&text, folder, args.no_check)
        .with_context(|| format!("{} is not written", args.config.display()))?;
    files::write(&text, &args.config)?;
    let config = args.config.to_string_lossy();
    let mut out = std::io::stdout().lock();
    writeln!(out, "wrote {config}")?;
    writeln!(out, "check it: {}", shell_command(["dissent", "run", &config, "--dry-run"]))?;
    writeln!(out, "run it:   {}", shell_command(["dissent", "run", &config]))?;
    if answers.feedback == FeedbackChoice::People {
        writeln!(out, "The run ends when people are to judge, and prints the commands for their page.")?;
    }
    Ok(())
}

/// Checks the text as `dissent run --dry-run` checks a file.
fn check(text: &str, folder: &Path, without_models: bool) -> anyhow::Result<()> {
    let config = Config::parse(text, folder)?;
    if !without_models {
        experiment::forecast(&config)?;
    }
    Ok(())
}
