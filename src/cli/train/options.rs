//! What the trainings have in common on the command line.

use std::path::PathBuf;

use dissent_domain::training::{Hyperparameters, LoraSettings, Schedule, Warmup};
use dissent_models::template::PromptTemplate;
use dissent_models::training::DataOrder;

use super::folder::ResumeOptions;
use crate::cli::runtime_args::RuntimeArgs;
use crate::dataset::{Format, Margins, Preferred, ReadOptions};
use crate::error::BadInput;

/// The model that is trained, and where the result goes.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelOptions {
    /// The model to begin with: a Hugging Face folder or a GGUF file.
    #[arg(long, value_name = "PATH")]
    pub(super) base: PathBuf,
    /// Keep only its first K layers.
    #[arg(long, value_name = "K")]
    pub(super) layers: Option<u32>,
    /// A PEFT LoRA folder to go on training, instead of a fresh change.
    #[arg(long, value_name = "DIR")]
    pub(super) adapter: Option<PathBuf>,
    /// How prompt and answer are put to the model: `chat`, `raw`, or a text naming `{prompt}` and
    /// `{completion}`.
    #[arg(long, default_value = "chat")]
    pub(super) template: PromptTemplate,
    /// Folder for the result; while training, for checkpoints too.
    #[arg(long, value_name = "DIR")]
    pub(super) output: PathBuf,
    /// Fail unless the folder holds an unfinished training to go on with (it is gone on with in any case).
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Begin anew where the folder holds a training.
    #[arg(long)]
    overwrite: bool,
    /// Metrics, a JSON object for each step, named as in TRL [default: metrics.jsonl in the output folder]
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// Steps (iterations of ppo, grpo and rloo) from one checkpoint to the next [default: 20, or every
    /// iteration]
    #[arg(long, value_name = "K")]
    pub(super) checkpoint_every: Option<u32>,
    /// Print the final figures as JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) runtime: RuntimeArgs,
}

impl ModelOptions {
    pub(super) fn wish(&self) -> ResumeOptions {
        ResumeOptions { resume: self.resume, overwrite: self.overwrite }
    }
}

/// The examples.
#[derive(Debug, clap::Args)]
pub(crate) struct DataOptions {
    /// Examples as JSON lines, gzipped or not; `-` is stdin. The format is recognised.
    #[arg(long, value_name = "FILE")]
    pub(super) data: PathBuf,
    /// The format, instead of recognising it: preference, implicit-preference, hh-rlhf, safe-rlhf,
    /// prompt-completion, unpaired, messages, text or prompt-only.
    #[arg(long)]
    format: Option<Format>,
    /// Examples that the result is evaluated on.
    #[arg(long, value_name = "FILE", conflicts_with = "eval_split")]
    pub(super) eval_data: Option<PathBuf>,
    /// Hold this share of the examples back and evaluate on it; examples with the same prompt stay together.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(super) eval_split: Option<f64>,
    /// Learn from the examples in the order of the file instead of shuffling them in every pass.
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
    within.ok_or_else(|| "must be above 0 and below 1".to_owned())
}

/// Which answer of a pair is preferred, and by how much.
#[derive(Debug, clap::Args)]
pub(crate) struct PairOptions {
    /// Which judgement of PKU-SafeRLHF counts: `better` or `safer` [default: better; safer for cost models]
    #[arg(long, value_parser = preferred)]
    prefer: Option<Preferred>,
    /// Where margins come from: the `column` margin, the `scores` (score_chosen - score_rejected), or `none`.
    #[arg(long, default_value = "column", value_parser = margins)]
    pub(super) margins: Margins,
}

impl PairOptions {
    pub(super) fn preferred(&self, default: Preferred) -> Preferred {
        self.prefer.unwrap_or(default)
    }
}

fn preferred(text: &str) -> Result<Preferred, String> {
    match text {
        "better" => Ok(Preferred::Better),
        "safer" => Ok(Preferred::Safer),
        other => Err(format!("{other:?} is neither better nor safer")),
    }
}

fn margins(text: &str) -> Result<Margins, String> {
    match text {
        "column" => Ok(Margins::Column),
        "scores" => Ok(Margins::Scores),
        "none" => Ok(Margins::Zero),
        other => Err(format!("{other:?} is none of column, scores and none")),
    }
}

/// The optimiser and what it changes.
#[derive(Debug, clap::Args)]
pub(crate) struct OptimiserOptions {
    /// Rank of the low-rank change [default: 8; 16 for policies]
    #[arg(long, value_name = "R")]
    lora_r: Option<u32>,
    /// The change is scaled by alpha / r.
    #[arg(long, value_name = "ALPHA", default_value_t = 32.0, allow_negative_numbers = true)]
    lora_alpha: f64,
    /// Projections that are changed, such as q_proj,v_proj [default: those that PEFT chooses]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    lora_targets: Vec<String>,
    /// Train all weights instead: for small models.
    #[arg(long, conflicts_with_all = ["lora_r", "lora_targets", "adapter"])]
    full: bool,
    /// Peak learning rate [default: 2e-4 sft, 1e-4 reward and cost, 1e-5 dpo, 1.41e-5 ppo, grpo and rloo]
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// How the learning rate falls: linear, cosine or constant.
    #[arg(long, default_value = "linear", value_parser = schedule)]
    schedule: Schedule,
    /// Steps in which the learning rate rises from 0, or with a point (0.1) their share of all steps.
    #[arg(long, default_value = "0", value_parser = warmup)]
    warmup: Warmup,
    /// Examples (pairs, completions) of a micro-batch.
    #[arg(long, default_value_t = 8)]
    batch_size: u32,
    /// Micro-batches of a step.
    #[arg(long, default_value_t = 1)]
    grad_accum: u32,
    /// Longest example, in tokens; longer ones are left out and counted.
    #[arg(long, default_value_t = 512)]
    max_length: u32,
    /// Decoupled weight decay of AdamW.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    weight_decay: f64,
    /// Gradients are scaled down to this norm; 0: never.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    max_grad_norm: f64,
    /// Compute inner values again for the gradient: less memory, more time, the same result.
    #[arg(long)]
    recompute: bool,
    /// Seed of initial values and of every random choice.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What the defaults depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) learning_rate: f64,
    pub(super) lora_r: u32,
}

impl OptimiserOptions {
    /// The settings, with so many passes over the data, or steps.
    pub(super) fn settings(
        &self,
        defaults: Defaults,
        epochs: f64,
        steps: Option<u64>,
    ) -> Result<Hyperparameters, BadInput> {
        let lora = LoraSettings {
            r: self.lora_r.unwrap_or(defaults.lora_r),
            alpha: self.lora_alpha,
            targets: self.lora_targets.clone(),
        };
        let settings = Hyperparameters {
            learning_rate: self.lr.unwrap_or(defaults.learning_rate),
            schedule: self.schedule,
            warmup: self.warmup,
            epochs,
            steps,
            batch_size: self.batch_size,
            gradient_accumulation: self.grad_accum,
            max_length: self.max_length,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            lora: (!self.full).then_some(lora),
            recompute: self.recompute,
            seed: self.seed,
            ..Hyperparameters::default()
        };
        settings.validate().map_err(|error| BadInput(error.to_string()))?;
        Ok(settings)
    }
}

/// How long a training on examples lasts.
#[derive(Debug, clap::Args)]
pub(crate) struct LengthOptions {
    /// Passes over the examples; a fraction is allowed.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub(super) epochs: f64,
    /// Steps of the optimiser, instead of passes.
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    pub(super) steps: Option<u64>,
}

fn schedule(text: &str) -> Result<Schedule, String> {
    match text {
        "linear" => Ok(Schedule::Linear),
        "cosine" => Ok(Schedule::Cosine),
        "constant" => Ok(Schedule::Constant),
        other => Err(format!("{other:?} is none of linear, cosine and constant")),
    }
}

fn warmup(text: &str) -> Result<Warmup, String> {
    let wrong = || "must be a number of steps, or a share of them such as 0.1".to_owned();
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
    fn a_warm_up_is_steps_or_with_a_point_a_share() {
        assert_eq!(warmup("10"), Ok(Warmup::Steps(10)));
        assert_eq!(warmup("0.1"), Ok(Warmup::Ratio(0.1)));
        assert_eq!(warmup("1"), Ok(Warmup::Steps(1)));
        assert_eq!(warmup("1.0"), Ok(Warmup::Ratio(1.0)));
        for wrong in ["-1", "1.5", "", "x", "10%"] {
            assert!(warmup(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_is_neither_nothing_nor_all() {
        assert_eq!(share("0.1"), Ok(0.1));
        for wrong in ["0", "1", "-0.1", "nan", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
