//! `dissent model`: inspects checkpoints and adapters, and merges them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_models::checkpoint::{Dtype, SpecialTokens, write};
use dissent_models::inspect::{self, ModelSummary};

use crate::experiment::models::Model;

/// Inspect checkpoints and adapters, and merge them
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ModelCommand {
    /// Show the contents of a Hugging Face folder, a GGUF file or a PEFT folder
    #[command(after_help = "Examples:\n  dissent model inspect SmolLM2-135M-Instruct.Q4_1.gguf\n  \
                            dissent model inspect ./proxy-reward --json")]
    Inspect {
        /// Folder or file to inspect.
        #[arg(value_parser = crate::cli::paths::path())]
        path: PathBuf,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Merge an adapter into its model, and write a Hugging Face folder for transformers
    #[command(after_help = "\
Examples:
  dissent model merge --base SmolLM2.gguf --adapter ./policy --output ./policy-merged
  dissent model merge --base SmolLM2.gguf --layers 6 --adapter ./reward --output ./reward-merged --dtype bf16

With the adapter of a reward model (SEQ_CLS), the result is a sequence classifier with its score head. Without an adapter,
the checkpoint alone is written: a GGUF file becomes a Hugging Face folder.")]
    Merge(MergeArgs),
}

#[derive(Debug, clap::Args)]
struct MergeArgs {
    /// Model: a Hugging Face folder or a GGUF file.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH")]
    base: PathBuf,
    /// Keep only the first K layers of the model.
    #[arg(long, value_name = "K")]
    layers: Option<u32>,
    /// PEFT LoRA folder to merge.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Folder for the result, which must not exist.
    #[arg(value_parser = crate::cli::paths::path(), long, short, value_name = "DIR")]
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
        other => Err(format!("unknown element type {other:?}: use f32, f16 or bf16")),
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
    for (name, value) in fields.iter().filter(|(name, value)| !value.is_null() && *name != "special_tokens") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(out, "{:<24} {value}", name.replace('_', " "))?;
    }
    if let ModelSummary::Model(model) = &summary {
        print_special_tokens(&mut out, &model.special_tokens)?;
    }
    Ok(())
}

/// Prints a line for each special token: its use, id, text and sources.
fn print_special_tokens(out: &mut impl std::io::Write, tokens: &SpecialTokens) -> std::io::Result<()> {
    if tokens.stop.is_empty() {
        writeln!(out, "{:<24} none: the model cannot stop", "stop token")?;
    }
    let stop = tokens.stop.iter().map(|token| ("stop token", token));
    let end = tokens.end.iter().map(|token| ("end of completions", token));
    let bos = tokens.bos.iter().map(|token| ("bos of the model", token));
    let named = tokens.named.iter().map(|(name, token)| (name.as_str(), token));
    for (role, token) in stop.chain(end).chain(bos).chain(named) {
        let id = token.id.map_or_else(|| "no id".to_owned(), |id| id.to_string());
        let text = token.text.as_deref().map_or_else(|| "no text".to_owned(), |text| format!("{text:?}"));
        let sources: Vec<String> = token.sources.iter().map(ToString::to_string).collect();
        writeln!(out, "{:<24} {id} {text} ({})", role.replace('_', " "), sources.join(", "))?;
    }
    Ok(())
}

fn merge(args: &MergeArgs) -> anyhow::Result<()> {
    let model = Model::open(&args.base, args.layers, args.adapter.as_deref())?;
    write::merge(&model.checkpoint, model.adapter.as_ref(), args.dtype, &args.output)?;
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "wrote {} to {}", model.name, args.output.display())?)
}
