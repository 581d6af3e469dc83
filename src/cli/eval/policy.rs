//! `dissent eval policy`: measures the reward of a policy's completions, their KL to a reference, and their
//! conflict with the reward model.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::analysis::{self, Interval, t_interval};
use dissent_domain::conflict;
use dissent_domain::generation::{FinishReason, SamplingParamError, SamplingParams, sample_seed};
use dissent_domain::id::PromptId;
use dissent_domain::reward::RewardKind;
use dissent_domain::training::{Dialogue, KlEstimator};
use dissent_models::generation::{GenerationJob, Generator, SampledTokens};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::template::PromptTemplate;
use serde::Serialize;

use super::output::{interval, print};
use crate::cli::interrupt;
use crate::cli::reward_model::RewardModelOptions;
use crate::cli::runtime_args::RuntimeArgs;
use crate::dataset::{Dataset, ReadOptions, Row};
use crate::experiment::models::{self, Model};
use crate::progress::CountingView;

/// Completions decoded in one batch.
const BATCH_ROWS: usize = 16;

/// Measure reward, KL to the reference, length and conflict of a policy's completions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent eval policy --policy SmolLM2.gguf --adapter ./policy --reward ./reward-model --prompts held-out.jsonl
  dissent eval policy --policy ./policy --reference ./base --reward ./reward-model --prompts held-out.jsonl -n 4 --json

The reference is the policy before its tuning: --reference, or the policy without its adapter. KL is per completion, in
nats: k1 is the sum of log π - log π_ref over the tokens; k3 estimates the same and is never negative. Intervals are over
prompts.")]
pub(crate) struct PolicyArgs {
    /// Policy: a Hugging Face folder or a GGUF file.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH")]
    policy: PathBuf,
    /// PEFT LoRA folder of the policy.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Reference policy [default: the policy's path]
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH")]
    reference: Option<PathBuf>,
    /// PEFT LoRA folder of the reference [default: none]
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR")]
    reference_adapter: Option<PathBuf>,
    #[command(flatten)]
    judge: RewardModelOptions,
    /// Template of prompt and completion: `chat`, `raw`, or a text with `{prompt}` and `{completion}`.
    /// `chat@2026-01-31` sets the date that the template sees instead of 2024-07-26.
    #[arg(long, default_value = "chat")]
    template: PromptTemplate,
    /// Prompts as JSON Lines, in any data format that has them; duplicates count once.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    prompts: PathBuf,
    /// Completions of each prompt.
    #[arg(short = 'n', long, default_value_t = 4, value_name = "N")]
    samples: u32,
    /// Sampling temperature, the divisor of the logits; 0 is greedy.
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f64,
    /// Maximum number of tokens in a completion.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: u32,
    /// Text that ends a completion, beside the model's stop tokens; may be repeated. The reward model sees
    /// the completion up to it.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seed of the completions.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Means over prompts, with intervals if there are two prompts or more.
#[derive(Serialize)]
struct Figures {
    prompts: usize,
    completions: usize,
    reward: Option<Interval>,
    reward_mean: f64,
    kl_k1: Option<f64>,
    kl_k1_interval: Option<Interval>,
    kl_k3: Option<f64>,
    kl_k3_interval: Option<Interval>,
    tokens_mean: f64,
    stopped: f64,
    mean_abs_pacs: Option<f64>,
    kendall_tau: Option<f64>,
    degenerate_prompts: usize,
}

/// Figures of one prompt's completions.
#[derive(Default)]
struct CompletionFigures {
    rewards: Vec<f64>,
    logprobs: Vec<f64>,
    kl_k1: Vec<f64>,
    kl_k3: Vec<f64>,
    tokens: Vec<f64>,
    stopped: Vec<f64>,
}

pub(crate) fn run(args: &PolicyArgs) -> anyhow::Result<()> {
    let reward_template = args.judge.template(&args.template)?;
    let sampling = args.sampling()?;
    let dataset = Dataset::read(&args.prompts, &ReadOptions::default())?;
    let file = dataset.file.clone();
    let prompts = dataset.prompts()?;
    let policy = Model::open_policy(&args.policy, None, args.adapter.as_deref())
        .context("failed to open the policy")?;
    let (runtime, options) = models::runtime(&args.runtime.config(), BATCH_ROWS)?;
    let mut scorers = ScoringModels::open(args, &policy, runtime, &options)?;
    let mut generator = Generator::open(runtime, &policy.checkpoint, policy.adapter.as_ref(), &options)?;
    let cancel = interrupt::cancel_flag()?;
    let mut bar = CountingView::new(prompts.len() as u64, "prompts");
    let mut measured = Vec::with_capacity(prompts.len());
    for row in &prompts {
        let figures = (|| {
            let prompt_ids = args.template.encode_dialogue(&policy.checkpoint.tokenizer, &row.value)?;
            let job = args.job(row, prompt_ids)?;
            let sampled = generator.generate(std::slice::from_ref(&job), &sampling, &cancel, &mut |_| ())?;
            let sampled = sampled.into_iter().next().unwrap_or_default();
            scorers.measure(&row.value, reward_template, &job.prompt_ids, &sampled, &policy, &cancel)
        })();
        let figures =
            figures.map_err(interrupt::map_cancelled).with_context(|| format!("{file}:{}", row.line))?;
        measured.push(figures);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let figures = figures(&measured)?;
    print(&figures, &lines(&figures), args.json)
}

impl PolicyArgs {
    fn sampling(&self) -> Result<SamplingParams, SamplingParamError> {
        let sampling = SamplingParams {
            samples: self.samples,
            temperature: self.temperature,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
            ..SamplingParams::default()
        };
        sampling.validate()?;
        Ok(sampling)
    }

    fn job(&self, row: &Row<Dialogue>, prompt_ids: Vec<u32>) -> anyhow::Result<GenerationJob> {
        // These completions belong to no experiment. Their seeds have a name of their own.
        let prompt = PromptId::new(format!("line-{}", row.line))?;
        let seed = |sample| sample_seed("eval", self.seed, 0, &prompt, sample);
        Ok(GenerationJob { prompt_ids, seeds: (0..self.samples).map(seed).collect() })
    }
}

/// Models that measure the sampled completions.
struct ScoringModels {
    policy: PolicyScorer,
    reference: Option<PolicyScorer>,
    reward: RewardModel,
    reward_model: Model,
    kind: RewardKind,
}

impl ScoringModels {
    fn open(
        args: &PolicyArgs,
        policy: &Model,
        runtime: &'static OnnxRuntime,
        options: &SessionOptions,
    ) -> anyhow::Result<Self> {
        let reward_model = args.judge.open()?;
        let reward =
            RewardModel::open(runtime, &reward_model.checkpoint, reward_model.adapter.as_ref(), options)?;
        let has_reference =
            args.reference.is_some() || args.reference_adapter.is_some() || args.adapter.is_some();
        let reference = if has_reference {
            let path: &Path = args.reference.as_deref().unwrap_or(&args.policy);
            let model = Model::open_policy(path, None, args.reference_adapter.as_deref())
                .context("failed to open the reference")?;
            Some(PolicyScorer::open(runtime, &model.checkpoint, model.adapter.as_ref(), options)?)
        } else {
            None
        };
        let policy = PolicyScorer::open(runtime, &policy.checkpoint, policy.adapter.as_ref(), options)?;
        Ok(Self { policy, reference, reward, reward_model, kind: args.judge.reward_kind })
    }

    fn measure(
        &mut self,
        prompt: &Dialogue,
        template: &PromptTemplate,
        prompt_ids: &[u32],
        sampled: &[SampledTokens],
        policy: &Model,
        cancel: &CancelFlag,
    ) -> anyhow::Result<CompletionFigures> {
        let item = |tokens: &SampledTokens| ScoreItem {
            prompt_ids: prompt_ids.to_vec(),
            completion_ids: tokens.token_ids.clone(),
        };
        let items: Vec<ScoreItem> = sampled.iter().map(item).collect();
        let logprobs = self.policy.score(&items, cancel, &mut |_| ())?;
        let mut measured = CompletionFigures::default();
        if let Some(reference) = &mut self.reference {
            let references = reference.score(&items, cancel, &mut |_| ())?;
            for (policy, reference) in logprobs.iter().zip(&references) {
                let [policy, reference] = [policy, reference]
                    .map(|tokens| tokens.iter().map(|&token| f64::from(token)).collect::<Vec<_>>());
                let sum = |estimator: KlEstimator| estimator.estimates(&policy, &reference).iter().sum();
                measured.kl_k1.push(sum(KlEstimator::K1));
                measured.kl_k3.push(sum(KlEstimator::K3));
            }
        }
        let mut sequences = Vec::with_capacity(sampled.len());
        for tokens in sampled {
            let text = tokens.text(&policy.checkpoint.tokenizer)?;
            let tokenizer = &self.reward_model.checkpoint.tokenizer;
            sequences.push(template.encode_dialogue_with_completion(tokenizer, prompt, &text)?);
            measured.tokens.push(tokens.token_ids.len() as f64);
            measured.stopped.push(if tokens.finish_reason == FinishReason::Stop { 1.0 } else { 0.0 });
        }
        let scores = self.reward.score(&sequences, cancel, &mut |_| ())?;
        measured.rewards.extend(scores.into_iter().map(|score| self.kind.reward(f64::from(score))));
        measured
            .logprobs
            .extend(logprobs.iter().map(|tokens| tokens.iter().map(|&token| f64::from(token)).sum::<f64>()));
        Ok(measured)
    }
}

fn figures(measured: &[CompletionFigures]) -> anyhow::Result<Figures> {
    // Only prompts are independent draws, so each prompt counts once.
    let means = |of: fn(&CompletionFigures) -> &Vec<f64>| -> Vec<f64> {
        measured.iter().map(of).filter(|values| !values.is_empty()).map(|values| mean(values)).collect()
    };
    let (rewards, k1, k3) =
        (means(|prompt| &prompt.rewards), means(|prompt| &prompt.kl_k1), means(|prompt| &prompt.kl_k3));
    let mut conflicts = Vec::with_capacity(measured.len());
    for prompt in measured {
        conflicts.push(conflict::measure(&prompt.rewards, &prompt.logprobs)?);
    }
    let varying: Vec<_> = conflicts.iter().filter(|conflict| !conflict.degenerate).collect();
    let pacs: Vec<f64> = varying.iter().map(|conflict| conflict.mean_abs_pacs).collect();
    let taus: Vec<f64> = varying.iter().filter_map(|conflict| conflict.kendall_tau).collect();
    let some = |values: &[f64]| (!values.is_empty()).then(|| mean(values));
    Ok(Figures {
        prompts: measured.len(),
        completions: measured.iter().map(|prompt| prompt.rewards.len()).sum(),
        reward: t_interval(&rewards),
        reward_mean: mean(&rewards),
        kl_k1: some(&k1),
        kl_k1_interval: t_interval(&k1),
        kl_k3: some(&k3),
        kl_k3_interval: t_interval(&k3),
        tokens_mean: mean(&means(|prompt| &prompt.tokens)),
        stopped: mean(&means(|prompt| &prompt.stopped)),
        mean_abs_pacs: some(&pacs),
        kendall_tau: some(&taus),
        degenerate_prompts: conflicts.len() - varying.len(),
    })
}

fn mean(values: &[f64]) -> f64 {
    analysis::mean(values.iter().copied()).unwrap_or(0.0)
}

fn lines(figures: &Figures) -> Vec<(&'static str, String)> {
    let with_interval = |mean: Option<f64>, over: &Option<Interval>| match (over, mean) {
        (Some(over), _) => interval(over),
        (None, Some(mean)) => format!("{mean:.4}"),
        (None, None) => "-".to_owned(),
    };
    let plain = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    vec![
        ("prompts", figures.prompts.to_string()),
        ("completions", figures.completions.to_string()),
        ("reward (95 %)", with_interval(Some(figures.reward_mean), &figures.reward)),
        ("KL, k1, nats (95 %)", with_interval(figures.kl_k1, &figures.kl_k1_interval)),
        ("KL, k3, nats (95 %)", with_interval(figures.kl_k3, &figures.kl_k3_interval)),
        ("tokens per completion", format!("{:.1}", figures.tokens_mean)),
        ("ended before the limit", format!("{:.4}", figures.stopped)),
        ("mean|PACS|", plain(figures.mean_abs_pacs)),
        ("mean Kendall tau", plain(figures.kendall_tau)),
        ("degenerate prompts", figures.degenerate_prompts.to_string()),
    ]
}
