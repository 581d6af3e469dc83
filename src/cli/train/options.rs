//! The options that several kinds of training share.

use std::path::PathBuf;

use dissent_domain::training::{Hyperparameters, LoraSettings, Schedule, SettingError, Warmup};
use dissent_models::template::PromptTemplate;
use dissent_models::training::DataOrder;

use super::folder::ResumeOptions;
use crate::cli::runtime_args::RuntimeArgs;
use crate::dataset::{Format, Margins, Preferred, ReadOptions};

/// Options of the model to train and of its output folder.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelOptions {
    /// Initial model: a Hugging Face folder or a GGUF file.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH")]
    pub(super) base: PathBuf,
    /// Keep only the first K layers of the model.
    #[arg(long, value_name = "K")]
    pub(super) layers: Option<u32>,
    /// PEFT LoRA folder with the initial adapter [default: a new adapter]
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR")]
    pub(super) adapter: Option<PathBuf>,
    /// Template of prompt and completion: `chat`, `raw`, or a text with `{prompt}` and `{completion}`.
    /// `chat@2026-01-31` sets the date that the template sees instead of 2024-07-26.
    #[arg(long, default_value = "chat")]
    pub(super) template: PromptTemplate,
    /// Output folder for the result, and for checkpoints during the training.
    #[arg(value_parser = crate::cli::paths::path(), long, short, value_name = "DIR")]
    pub(super) output: PathBuf,
    /// Require an unfinished training in the output folder. Without this flag one is resumed if present,
    /// or a new one starts.
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Start over, and replace the training in the output folder.
    #[arg(long)]
    overwrite: bool,
    /// File for the metrics, a JSON object for each step with TRL's names [default: metrics.jsonl in the
    /// output folder]
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// Steps between checkpoints; iterations for ppo, grpo and rloo [default: 20 steps, or 1 iteration]
    #[arg(long, value_name = "K")]
    pub(super) checkpoint_every: Option<u32>,
    /// Check options, data and model, print the predicted peak memory, and train nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print the final metrics as JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) runtime: RuntimeArgs,
}

impl ModelOptions {
    pub(super) fn resume_options(&self) -> ResumeOptions {
        ResumeOptions { resume: self.resume, overwrite: self.overwrite }
    }
}

/// Options of the examples.
#[derive(Debug, clap::Args)]
pub(crate) struct DataOptions {
    /// Examples: JSON Lines, a JSON array, CSV, TSV or Parquet, which may be compressed; `-` is stdin.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    pub(super) data: PathBuf,
    /// Format of the data: preference, implicit-preference, hh-rlhf, safe-rlhf, prompt-completion, unpaired,
    /// messages, sharegpt, alpaca, text or prompt-only [default: detected]
    #[arg(long)]
    format: Option<Format>,
    /// Examples on which the result is evaluated.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE", conflicts_with = "eval_split")]
    pub(super) eval_data: Option<PathBuf>,
    /// Share of the examples to hold out for the evaluation; examples with the same prompt stay together.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(super) eval_split: Option<f64>,
    /// Learn from the examples in the order of the file instead of shuffling them in every epoch.
    #[arg(long)]
    keep_order: bool,
}

impl DataOptions {
    pub(super) fn reading(&self, preferred: Preferred, margins: Margins) -> ReadOptions {
        ReadOptions { format: self.format, preferred, margins }
    }

    pub(super) fn order(&self) -> DataOrder {
        if self.keep_order { DataOrder::AsGiven } else { DataOrder::Shuffled }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let within = text.parse().ok().filter(|share: &f64| *share > 0.0 && *share < 1.0);
    within.ok_or_else(|| "use a number between 0 and 1".to_owned())
}

/// Options of preference pairs.
#[derive(Debug, clap::Args)]
pub(crate) struct PairOptions {
    /// Label of PKU-SafeRLHF that names the preferred completion: `better` or `safer` [default: better; safer
    /// for cost models]
    #[arg(long, alias = "prefer", value_parser = preferred)]
    preferred: Option<Preferred>,
    /// Source of margins: `column` (the field margin), `scores` (score_chosen - score_rejected) or `none`.
    #[arg(long, default_value = "column", value_parser = margins)]
    pub(super) margins: Margins,
}

impl PairOptions {
    pub(super) fn preferred(&self, default: Preferred) -> Preferred {
        self.preferred.unwrap_or(default)
    }
}

fn preferred(text: &str) -> Result<Preferred, String> {
    match text {
        "better" => Ok(Preferred::Better),
        "safer" => Ok(Preferred::Safer),
        other => Err(format!("unknown label {other:?}: use better or safer")),
    }
}

fn margins(text: &str) -> Result<Margins, String> {
    match text {
        "column" => Ok(Margins::Column),
        "scores" => Ok(Margins::Scores),
        "none" => Ok(Margins::Zero),
        other => Err(format!("unknown source {other:?}: use column, scores or none")),
    }
}

/// Options of the optimiser and of the adapter.
#[derive(Debug, clap::Args)]
pub(crate) struct OptimiserOptions {
    /// Rank of the adapter [default: 8; 16 for policies]
    #[arg(long, value_name = "R")]
    lora_r: Option<u32>,
    /// Scale of the adapter, whose output is multiplied by alpha / r.
    #[arg(long, value_name = "ALPHA", default_value_t = 32.0, allow_negative_numbers = true)]
    lora_alpha: f64,
    /// Projections that the adapter changes, such as q_proj,v_proj [default: PEFT's choice]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    lora_targets: Vec<String>,
    /// Train all weights instead of an adapter; suitable for small models.
    #[arg(long, conflicts_with_all = ["lora_r", "lora_targets", "adapter"])]
    full: bool,
    /// Peak learning rate [default: 2e-4 sft, 1e-4 reward and cost, 1e-5 dpo, 1.41e-5 ppo, grpo and rloo]
    #[arg(long, alias = "lr", value_name = "RATE", allow_negative_numbers = true)]
    learning_rate: Option<f64>,
    /// Decay of the learning rate: linear, cosine or constant.
    #[arg(long, default_value = "linear", value_parser = schedule)]
    schedule: Schedule,
    /// Steps in which the learning rate rises from 0.
    #[arg(long, value_name = "N", conflicts_with = "warmup_ratio")]
    warmup_steps: Option<u64>,
    /// Warm-up of the learning rate as a share of all steps.
    #[arg(long, value_name = "SHARE", value_parser = ratio)]
    warmup_ratio: Option<f64>,
    /// A number of steps, or with a decimal point (0.1) a share of all steps: the spelling of version 0.1.
    #[arg(long, hide = true, value_parser = warmup, conflicts_with_all = ["warmup_steps", "warmup_ratio"])]
    warmup: Option<Warmup>,
    /// Examples (pairs, completions) in a micro-batch.
    #[arg(long, default_value_t = 8)]
    batch_size: u32,
    /// Micro-batches in a step.
    #[arg(long, alias = "grad-accum", default_value_t = 1)]
    gradient_accumulation: u32,
    /// Longest example, in tokens; longer examples are skipped and counted.
    #[arg(long, default_value_t = 512)]
    max_length: u32,
    /// Decoupled weight decay of AdamW.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    weight_decay: f64,
    /// Maximum gradient norm: larger gradients are scaled down to it; 0 turns clipping off.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    max_grad_norm: f64,
    /// Recompute activations for the gradient: less memory, more time, the same result.
    #[arg(long)]
    recompute: bool,
    /// Seed of initial values and of every random choice.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Defaults that differ between kinds of training.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) learning_rate: f64,
    pub(super) lora_r: u32,
}

impl OptimiserOptions {
    fn warmup(&self) -> Warmup {
        let steps = self.warmup_steps.map(Warmup::Steps);
        steps.or(self.warmup_ratio.map(Warmup::Ratio)).or(self.warmup).unwrap_or_default()
    }

    /// Returns the hyperparameters, with the given number of epochs or steps.
    ///
    /// # Errors
    /// If a value is out of range.
    pub(super) fn settings(
        &self,
        defaults: Defaults,
        epochs: f64,
        steps: Option<u64>,
    ) -> Result<Hyperparameters, SettingError> {
        let lora = LoraSettings {
            r: self.lora_r.unwrap_or(defaults.lora_r),
            alpha: self.lora_alpha,
            targets: self.lora_targets.clone(),
        };
        let settings = Hyperparameters {
            learning_rate: self.learning_rate.unwrap_or(defaults.learning_rate),
            schedule: self.schedule,
            warmup: self.warmup(),
            epochs,
            steps,
            batch_size: self.batch_size,
            gradient_accumulation: self.gradient_accumulation,
            max_length: self.max_length,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            lora: (!self.full).then_some(lora),
            recompute: self.recompute,
            seed: self.seed,
            ..Hyperparameters::default()
        };
        settings.validate()?;
        Ok(settings)
    }
}

/// Options of the length of a training on examples.
#[derive(Debug, clap::Args)]
pub(crate) struct LengthOptions {
    /// Number of passes over the examples; fractions are allowed.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub(super) epochs: f64,
    /// Steps of the optimiser, instead of epochs.
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    pub(super) steps: Option<u64>,
}

fn schedule(text: &str) -> Result<Schedule, String> {
    match text {
        "linear" => Ok(Schedule::Linear),
        "cosine" => Ok(Schedule::Cosine),
        "constant" => Ok(Schedule::Constant),
        other => Err(format!("unknown schedule {other:?}: use linear, cosine or constant")),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let within = text.parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share));
    within.ok_or_else(|| "use a share of all steps, 0 to 1".to_owned())
}

fn warmup(text: &str) -> Result<Warmup, String> {
    let wrong = || "use a number of steps, or a share of all steps such as 0.1".to_owned();
    if text.contains('.') {
        let share = text.parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share));
        return share.map(Warmup::Ratio).ok_or_else(wrong);
    }
    text.parse().map(Warmup::Steps).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_is_a_number_of_steps_or_with_a_decimal_point_a_share() {
        assert_eq!(warmup("10"), Ok(Warmup::Steps(10)));
        assert_eq!(warmup("0.1"), Ok(Warmup::Ratio(0.1)));
        assert_eq!(warmup("1"), Ok(Warmup::Steps(1)));
        assert_eq!(warmup("1.0"), Ok(Warmup::Ratio(1.0)));
        for wrong in ["-1", "1.5", "", "x", "10%"] {
            assert!(warmup(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_lies_between_0_and_1() {
        assert_eq!(share("0.1"), Ok(0.1));
        for wrong in ["0", "1", "-0.1", "nan", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
