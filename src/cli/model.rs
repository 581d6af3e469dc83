//! `dissent model`: what a checkpoint or an adapter is, and both as one.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_models::checkpoint::{Dtype, write};
use dissent_models::inspect;

use crate::experiment::models::Model;

/// Look at checkpoints and adapters, and merge them
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
    /// Merge an adapter into its model, as a Hugging Face folder that transformers loads
    #[command(after_help = "\
Examples:
  dissent model merge --base SmolLM2.gguf --adapter ./policy --output ./policy-merged
  dissent model merge --base SmolLM2.gguf --layers 6 --adapter ./reward --output ./reward-merged --dtype bf16

A reward model's adapter (SEQ_CLS) makes a sequence classifier, with its score head. Without an adapter, the checkpoint
is written as it is: a GGUF file becomes a Hugging Face folder.")]
    Merge(MergeArgs),
}

#[derive(Debug, clap::Args)]
struct MergeArgs {
    /// The model: a Hugging Face folder or a GGUF file.
    #[arg(long, value_name = "PATH")]
    base: PathBuf,
    /// Keep only its first K layers.
    #[arg(long, value_name = "K")]
    layers: Option<u32>,
    /// The PEFT LoRA folder that is merged in.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Element type of the weights: f32, f16 or bf16.
    #[arg(long, default_value = "f32", value_parser = dtype)]
    dtype: Dtype,
}

fn dtype(text: &str) -> Result<Dtype, String> {
    match text {
        "f32" => Ok(Dtype::F32),
        "f16" => Ok(Dtype::F16),
        "bf16" => Ok(Dtype::BF16),
        other => Err(format!("{other:?} is none of f32, f16 and bf16")),
    }
}

pub(crate) fn run(args: &ModelArgs) -> anyhow::Result<()> {
    match &args.command {
        ModelCommand::Inspect { path, json } => inspect(path, *json),
        ModelCommand::Merge(args) => merge(args),
    }
}

fn inspect(path: &Path, json: bool) -> anyhow::Result<()> {
    let summary = inspect::inspect(path, &crate::experiment::models::open_options(None)?)?;
    let mut out = std::io::stdout().lock();
    if json {
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

fn merge(args: &MergeArgs) -> anyhow::Result<()> {
    let model = Model::open(&args.base, args.layers, args.adapter.as_deref())?;
    write::merge(&model.checkpoint, model.adapter.as_ref(), args.dtype, &args.output)?;
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "merged {} into {}", model.name, args.output.display())?)
}
