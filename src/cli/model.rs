//! `dissent model inspect`: what a checkpoint or an adapter is.

use std::io::Write as _;
use std::path::PathBuf;

use dissent_models::inspect;

/// Look at checkpoints and adapters
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ModelCommand {
    /// Say what a Hugging Face folder, a GGUF file or a PEFT folder holds
    #[command(after_help = "Examples:\n  dissent model inspect SmolLM2-135M-Instruct.Q4_1.gguf\n  \
                            dissent model inspect ./proxy-reward --json")]
    Inspect {
        /// The folder or file.
        path: PathBuf,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: &ModelArgs) -> anyhow::Result<()> {
    let ModelCommand::Inspect { path, json } = &args.command;
    let summary = inspect::inspect(path, &crate::loading::open_options(None)?)?;
    let mut out = std::io::stdout().lock();
    if *json {
        serde_json::to_writer_pretty(&mut out, &summary)?;
        return Ok(writeln!(out)?);
    }
    let serde_json::Value::Object(fields) = serde_json::to_value(&summary)? else { return Ok(()) };
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(out, "{:<24} {value}", name.replace('_', " "))?;
    }
    Ok(())
}
