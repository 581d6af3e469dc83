//! `dissent eval reward`: measures how often a reward model orders pairs as people did, and how well its
//! confidence is calibrated.

use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::analysis::{Calibration, Interval, calibration, pairwise_accuracy, t_interval};
use dissent_domain::reward::RewardKind;
use dissent_models::scoring::RewardModel;
use dissent_models::template::PromptTemplate;
use serde::Serialize;

use super::output::{interval, print};
use crate::cli::interrupt;
use crate::cli::reward_model::{output, reward_kind};
use crate::cli::runtime_args::RuntimeArgs;
use crate::config::check_reward_template;
use crate::dataset::{Dataset, Preferred, ReadOptions, SkippedRows};
use crate::error::BadInput;
use crate::experiment::models::{self, Model};
use crate::progress::CountingView;

/// Bins of the reliability table, over confidences from 0.5 to 1.
const BINS: usize = 5;

/// Measure accuracy, margins and calibration of a reward model on preference pairs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent eval reward --reward SmolLM2.gguf --reward-layers 6 --reward-adapter ./reward --data held-out.jsonl
  dissent eval reward --reward ./reward-model --data safe-rlhf.jsonl.gz --preferred safer --json

Accuracy counts a tie as half. Calibration compares the model's confidence σ(|margin|) with its accuracy, in bins of
confidence. The expected calibration error is the mean over pairs of |accuracy - confidence| of their bin.")]
pub(crate) struct RewardArgs {
    /// Reward model: a Hugging Face folder or a GGUF file.
    #[arg(value_parser = crate::cli::paths::path(), long, aliases = ["base", "model"], value_name = "PATH")]
    reward: PathBuf,
    /// Keep only the first K layers of the reward model.
    #[arg(long, alias = "layers", value_name = "K")]
    reward_layers: Option<u32>,
    /// PEFT LoRA folder of task SEQ_CLS, with its score head.
    #[arg(value_parser = crate::cli::paths::path(), long, alias = "adapter", value_name = "DIR")]
    reward_adapter: Option<PathBuf>,
    /// Template of prompt and completion: `chat`, `raw`, or a text with `{prompt}` and `{completion}`.
    /// `chat@2026-01-31` sets the date that the template sees instead of 2024-07-26.
    #[arg(long, alias = "template", default_value = "chat", value_name = "TEMPLATE")]
    reward_template: PromptTemplate,
    /// Meaning of the model's score: `reward`, or `cost`, which is negated.
    #[arg(long, alias = "kind", default_value = "reward", value_parser = reward_kind)]
    reward_kind: RewardKind,
    /// Output of the model that is the score, counted from 0. Needed if it has several outputs.
    #[arg(long, alias = "label", value_name = "N", conflicts_with = "reward_weights")]
    reward_label: Option<u32>,
    /// Weight of each output of the model; the score is the weighted sum.
    #[arg(long, alias = "weights", value_name = "W,W,…", value_delimiter = ',', allow_hyphen_values = true)]
    reward_weights: Option<Vec<f64>>,
    /// Preferences as JSON Lines, gzipped or not, in any format of `dissent train --help`.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    data: PathBuf,
    /// Label of PKU-SafeRLHF that names the preferred completion: `better` or `safer`.
    #[arg(long, alias = "prefer", default_value = "better", value_parser = ["better", "safer"])]
    preferred: String,
    /// Longest prompt with completion, in tokens; longer pairs are skipped [default: the model's context]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Figures of a reward model, with 95 % intervals.
#[derive(Serialize)]
struct Figures {
    pairs: usize,
    too_long: usize,
    unmatched: usize,
    accuracy: Interval,
    ties: usize,
    margin: Option<Interval>,
    reward_chosen: f64,
    reward_rejected: f64,
    calibration: Calibration,
}

pub(crate) fn run(args: &RewardArgs) -> anyhow::Result<()> {
    check_reward_template(&args.reward_template)?;
    let preferred = if args.preferred == "safer" { Preferred::Safer } else { Preferred::Better };
    let dataset = Dataset::read(&args.data, &ReadOptions { preferred, ..ReadOptions::default() })?;
    let file = dataset.file.clone();
    let pairs = dataset.preferences()?;
    let model = Model::open(&args.reward, args.reward_layers, args.reward_adapter.as_deref())?
        .choose_output(output(args.reward_label, args.reward_weights.as_deref()))?;
    let (runtime, options) = models::runtime(&args.runtime.config(), 1)?;
    let mut scorer = RewardModel::open(runtime, &model.checkpoint, model.adapter.as_ref(), &options)?;
    let longest = args.max_length.unwrap_or(usize::MAX).min(model.checkpoint.config.context_length);
    let cancel = interrupt::cancel_flag()?;
    let mut bar = CountingView::new(pairs.rows.len() as u64, "pairs");
    let mut too_long = SkippedRows::default();
    let mut rewards = Vec::with_capacity(pairs.rows.len());
    for row in &pairs.rows {
        let at = || format!("{file}:{}", row.line);
        let pair = args.reward_template.encode_comparison(&model.checkpoint.tokenizer, &row.value);
        let pair = pair.with_context(at)?;
        let sequences = [pair.chosen.ids, pair.rejected.ids];
        if sequences.iter().any(|ids| ids.len() > longest) {
            too_long.add(row.line);
        } else {
            let scores = scorer.score(&sequences, &cancel, &mut |_| ());
            let scores = scores.map_err(|error| interrupt::map_cancelled(error.into())).with_context(at)?;
            rewards.extend(<[f32; 2]>::try_from(scores).ok());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let rewards: Vec<[f64; 2]> =
        rewards.iter().map(|pair| pair.map(|score| args.reward_kind.reward(f64::from(score)))).collect();
    let Some(figures) = figures(&rewards, too_long, pairs.skipped) else {
        let reason =
            format!("{file}: no pair fits into {longest} tokens: use shorter pairs or a larger --max-length");
        return Err(BadInput(reason).into());
    };
    print(&figures, &lines(&figures), args.json)
}

fn figures(rewards: &[[f64; 2]], too_long: SkippedRows, unmatched: SkippedRows) -> Option<Figures> {
    let margins: Vec<f64> = rewards.iter().map(|[chosen, rejected]| chosen - rejected).collect();
    let mean = |side: usize| rewards.iter().map(|pair| pair[side]).sum::<f64>() / rewards.len() as f64;
    Some(Figures {
        pairs: rewards.len(),
        too_long: too_long.rows,
        unmatched: unmatched.rows,
        accuracy: pairwise_accuracy(&margins)?,
        ties: rewards.iter().filter(|[chosen, rejected]| chosen.total_cmp(rejected).is_eq()).count(),
        margin: t_interval(&margins),
        reward_chosen: mean(0),
        reward_rejected: mean(1),
        calibration: calibration(&margins, BINS)?,
    })
}

fn lines(figures: &Figures) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("pairs", figures.pairs.to_string()),
        ("skipped, too long", figures.too_long.to_string()),
        ("skipped, unmatched", figures.unmatched.to_string()),
        ("accuracy (95 %)", interval(&figures.accuracy)),
        ("ties", figures.ties.to_string()),
        ("margin (95 %)", figures.margin.as_ref().map_or_else(|| "-".to_owned(), interval)),
        ("reward of chosen", format!("{:.4}", figures.reward_chosen)),
        ("reward of rejected", format!("{:.4}", figures.reward_rejected)),
        ("expected calibration error", format!("{:.4}", figures.calibration.expected_error)),
    ];
    for bin in figures.calibration.bins.iter().filter(|bin| bin.pairs > 0) {
        let text = format!(
            "confidence {:.1} to {:.1}: {} pairs, mean confidence {:.3}, accuracy {:.3}",
            bin.from, bin.to, bin.pairs, bin.confidence, bin.accuracy
        );
        lines.push(("", text));
    }
    lines
}
