//! Tunes a policy against a reward model: PPO, GRPO, RLOO.

use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::reward::RewardKind;
use dissent_domain::training::{Dialogue, KlEstimator, PolicyMethod, PolicyObjective, PpoSettings};
use dissent_models::ModelError;
use dissent_models::adapter::ValueHead;
use dissent_models::memory::Decoding;
use dissent_models::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use dissent_models::scoring::RewardModel;
use dissent_models::tuning::{
    IterationReport, LoraPolicy, PolicyStart, PolicyTuner, ReferencePolicy, RewardScorer, SampledCompletion,
    Scorer, TuningHooks, TuningPrompt, TuningSettings,
};
use serde_json::{Map, Value, json};

use super::folder::{Decision, OutputFolder, TrainingRecord, decide, record_reading_rules};
use super::metrics_log::MetricsLog;
use super::offline::{RESUME_HINT, in_folder, map_cancelled, object, open_policy, report, write_error};
use super::options::{Defaults, ModelOptions, OptimiserOptions};
use super::view::{TrainingView, print_status};
use crate::cli::interrupt;
use crate::cli::reward_model::RewardModelOptions;
use crate::dataset::{Dataset, ReadOptions};
use crate::error::{BadInput, Interrupted};
use crate::experiment::models::{self, Model};
use crate::memory::{self, Forecast, steps};

/// Completions decoded together.
const ROWS: usize = 16;
const DEFAULTS: Defaults = Defaults { learning_rate: 1.41e-5, lora_r: 16 };

#[derive(Debug, clap::Args)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    reward: RewardModelOptions,
    /// Prompts as JSON Lines, in any data format with prompts; duplicates are used once.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    prompts: PathBuf,
    /// Iterations, each of which samples, scores and learns.
    #[arg(long, default_value_t = PpoSettings::default().iterations)]
    iterations: u32,
    /// Prompts in an iteration.
    #[arg(long, default_value_t = PpoSettings::default().prompts)]
    prompts_per_iteration: u32,
    /// Completions of each prompt [default: 1 for ppo, 4 for grpo and rloo]
    #[arg(short = 'n', long, value_name = "N")]
    samples: Option<u32>,
    /// Passes over the completions of an iteration.
    #[arg(long, default_value_t = PpoSettings::default().epochs)]
    epochs: u32,
    /// Maximum number of new tokens in a completion.
    #[arg(long, default_value_t = PpoSettings::default().max_new_tokens)]
    max_new_tokens: u32,
    /// Text that ends a completion, beside the model's stop tokens; may be repeated. The reward model sees
    /// the completion up to it.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Sampling temperature.
    #[arg(long, default_value_t = PpoSettings::default().temperature)]
    temperature: f64,
    /// Clip range of the probability ratio.
    #[arg(long, default_value_t = PpoSettings::default().clip)]
    clip: f64,
    /// ppo: clip range of a value.
    #[arg(long, default_value_t = PpoSettings::default().value_clip)]
    value_clip: f64,
    /// ppo: weight of the value loss.
    #[arg(long, default_value_t = PpoSettings::default().value_coefficient)]
    value_coefficient: f64,
    /// Weight of the KL divergence from the reference policy, which is the initial policy.
    #[arg(long, default_value_t = PpoSettings::default().kl_coefficient)]
    kl_coefficient: f64,
    /// Estimator of the KL divergence: k1, k2 or k3.
    #[arg(long, default_value = "k1", value_parser = kl_estimator)]
    kl_estimator: KlEstimator,
    /// Target KL divergence of a completion, in nats; the weight adapts to it [default: a fixed weight]
    #[arg(long, value_name = "NATS")]
    kl_target: Option<f64>,
    /// ppo: discount factor.
    #[arg(long, default_value_t = PpoSettings::default().gamma)]
    gamma: f64,
    /// ppo: lambda of generalised advantage estimation.
    #[arg(long, default_value_t = PpoSettings::default().lambda)]
    lambda: f64,
    /// Penalty on the score of a completion without a stop token or stop text.
    #[arg(long, value_name = "PENALTY")]
    missing_eos_penalty: Option<f64>,
    /// Use the base model without the initial adapter as the reference policy.
    #[arg(long, requires = "adapter")]
    anchor_base: bool,
    #[command(flatten)]
    optimiser: OptimiserOptions,
}

fn kl_estimator(text: &str) -> Result<KlEstimator, String> {
    match text {
        "k1" => Ok(KlEstimator::K1),
        "k2" => Ok(KlEstimator::K2),
        "k3" => Ok(KlEstimator::K3),
        other => Err(format!("unknown estimator {other:?}: use k1, k2 or k3")),
    }
}

pub(super) fn run(args: &PolicyArgs, method: PolicyMethod) -> anyhow::Result<()> {
    let settings = args.settings(method)?;
    let dataset = Dataset::read(&args.prompts, &ReadOptions::default())?;
    let (file, data_fingerprint) = (dataset.file.clone(), dataset.fingerprint());
    let prompts = dataset.prompts()?;
    if args.model.dry_run {
        return args.dry_run(&settings, prompts.iter().map(|row| &row.value));
    }
    let model = open_policy(&args.model)?;
    let reward = args.reward.open_by(model.checkpoint.reading)?;
    let identity = args.identity(&settings, &data_fingerprint, &model, &reward)?;
    let folder = OutputFolder::open(&args.model.output)?;
    let decision = decide(&folder.content()?, &identity, args.model.resume_options())
        .with_context(|| in_folder(&folder))?;
    let encode = |row: &crate::dataset::Row<_>| {
        let ids = args.model.template.encode_dialogue(&model.checkpoint.tokenizer, &row.value);
        let ids = ids.with_context(|| format!("{file}:{}", row.line))?;
        Ok(TuningPrompt { dialogue: row.value.clone(), ids })
    };
    let prompts = prompts.iter().map(encode).collect::<anyhow::Result<Vec<_>>>()?;
    let about = args.about(&file, prompts.len(), &model, &reward);
    let record = TrainingRecord { finished: false, settings: identity, about, metrics: Map::new() };
    let (runtime, options) = models::runtime(&args.model.runtime.config(), ROWS)?;
    let mut tuner = args.tuner(&settings, &model, prompts, runtime, &options)?;
    let mut scorer = args.scorer(reward, runtime, &options)?;
    if tuner.skipped_prompts() > 0 {
        print_status(&format!("{file}: skipped {} prompts above --max-length", tuner.skipped_prompts()));
    }
    if decision == Decision::Begin {
        folder.begin(&record)?;
    } else if let Some(bytes) = folder.checkpoint()? {
        tuner.restore(&bytes).with_context(|| format!("{}", folder.dir().display()))?;
        print_status(&format!("resuming after iteration {} of {}", tuner.iteration(), args.iterations));
    }
    let metrics = args.tune(&mut tuner, &mut scorer, &folder)?;
    let policy = tuner.into_policy();
    if let Some(head) = policy.value_head() {
        head.save(folder.dir())?;
    }
    policy.adapter(Some(args.model.base.display().to_string()))?.save(folder.dir())?;
    let record = TrainingRecord { finished: true, metrics, ..record };
    folder.finish(&record)?;
    report(&record, &folder, args.model.json)
}

impl PolicyArgs {
    fn settings(&self, method: PolicyMethod) -> anyhow::Result<TuningSettings> {
        let samples = self.samples.unwrap_or(if method == PolicyMethod::Ppo { 1 } else { 4 });
        let ppo = PpoSettings {
            prompts: self.prompts_per_iteration,
            samples,
            iterations: self.iterations,
            epochs: self.epochs,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
            temperature: self.temperature,
            clip: self.clip,
            value_clip: self.value_clip,
            value_coefficient: self.value_coefficient,
            kl_coefficient: self.kl_coefficient,
            kl_estimator: self.kl_estimator,
            kl_target: self.kl_target,
            gamma: self.gamma,
            lambda: self.lambda,
            missing_eos_penalty: self.missing_eos_penalty,
            ..PpoSettings::default()
        };
        let objective = PolicyObjective { method, ppo, ..PolicyObjective::default() };
        objective.validate()?;
        let training = self.optimiser.settings(DEFAULTS, 1.0, None)?;
        if training.lora.is_none() {
            let reason = "--full is not possible here, because the reference policy is the model \
                          without the adapter: leave --full out";
            return Err(BadInput(reason.to_owned()).into());
        }
        self.reward.template(&self.model.template)?;
        Ok(TuningSettings { objective, training })
    }

    /// Predicts the memory of the tuning and of its reward model, without their weights.
    fn dry_run<'p>(
        &self,
        settings: &TuningSettings,
        prompts: impl Iterator<Item = &'p Dialogue>,
    ) -> anyhow::Result<()> {
        let ModelOptions { base, layers, adapter, .. } = &self.model;
        let policy = Model::outline_policy(base, *layers, adapter.as_deref())?;
        let reward = self.reward.outline()?;
        let template = self.reward.template(&self.model.template)?;
        let (mut prompt, mut scored) = (1, 1);
        for dialogue in prompts {
            let ids = self.model.template.encode_dialogue(&policy.checkpoint.tokenizer, dialogue)?;
            prompt = prompt.max(ids.len());
            let tokenizer = &reward.checkpoint.tokenizer;
            scored = scored.max(template.encode_dialogue_with_completion(tokenizer, dialogue, "")?.len());
        }
        let completion = usize::try_from(self.max_new_tokens)?;
        let distinct_tokens = policy.checkpoint.config.vocab_size;
        let decoding = Decoding { prompt, completion, rows: ROWS, distinct_tokens };
        let open = vec![
            steps::tuning(&policy, settings, decoding)?,
            steps::reward_scoring("reward", &reward, Decoding { prompt: scored, ..decoding })?,
        ];
        let forecast = Forecast::of_process(open, Vec::new());
        memory::show(&forecast, self.model.runtime.config().provider, self.model.json)
    }

    /// Returns the settings and inputs that determine the result.
    fn identity(
        &self,
        settings: &TuningSettings,
        data_fingerprint: &str,
        model: &Model,
        reward: &Model,
    ) -> anyhow::Result<Map<String, Value>> {
        let mut identity = object(json!({
            "task": settings.objective.method,
            "base_fingerprint": model.checkpoint.fingerprint,
            "adapter_fingerprint": model.adapter.as_ref().map(|adapter| adapter.fingerprint.as_str()),
            "template": self.model.template.to_string(),
            "anchor_base": self.anchor_base,
            "reward_fingerprint": reward.fingerprint,
            "reward_template": self.reward.own_template().map(ToString::to_string),
            "reward_kind": self.reward.reward_kind,
            "data_fingerprint": data_fingerprint,
            "objective": serde_json::to_value(&settings.objective)?,
            "training": serde_json::to_value(&settings.training)?,
        }));
        record_reading_rules(&mut identity, model.checkpoint.reading);
        if let Some(output) = &reward.checkpoint.reward_output {
            identity.insert("reward_output".to_owned(), serde_json::to_value(output)?);
        }
        Ok(identity)
    }

    fn about(&self, file: &str, prompts: usize, model: &Model, reward: &Model) -> Map<String, Value> {
        object(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "base": model.name,
            "reward": reward.name,
            "data": file,
            "prompts": prompts,
        }))
    }

    fn tuner(
        &self,
        settings: &TuningSettings,
        model: &Model,
        prompts: Vec<TuningPrompt>,
        runtime: &'static OnnxRuntime,
        options: &SessionOptions,
    ) -> anyhow::Result<PolicyTuner<LoraPolicy>> {
        let value_head = match &self.model.adapter {
            Some(dir) if settings.objective.method == PolicyMethod::Ppo => ValueHead::open(dir)?,
            Some(_) | None => None,
        };
        let start = PolicyStart {
            adapter: model.adapter.as_ref(),
            value_head: value_head.as_ref(),
            reference: if self.anchor_base { ReferencePolicy::Base } else { ReferencePolicy::Start },
        };
        let policy = LoraPolicy::open(runtime, &model.checkpoint, settings, start, options)?;
        Ok(PolicyTuner::new(policy, prompts, settings.clone())?)
    }

    fn scorer(
        &self,
        reward: Model,
        runtime: &'static OnnxRuntime,
        options: &SessionOptions,
    ) -> anyhow::Result<SignedRewardScorer> {
        let model = RewardModel::open(runtime, &reward.checkpoint, reward.adapter.as_ref(), options)
            .with_context(|| format!("failed to start the reward model {}", reward.name))?;
        let template = self.reward.template(&self.model.template)?;
        let scorer = RewardScorer::new(model, reward.checkpoint.tokenizer, template.clone());
        Ok(SignedRewardScorer { scorer, kind: self.reward.reward_kind })
    }

    /// Runs the remaining iterations, and returns the metrics of the last one.
    fn tune(
        &self,
        tuner: &mut PolicyTuner<LoraPolicy>,
        scorer: &mut SignedRewardScorer,
        folder: &OutputFolder,
    ) -> anyhow::Result<Map<String, Value>> {
        let path = self.model.log.clone().unwrap_or_else(|| folder.metrics_path());
        let reported = MetricsLog::reported(&path, u64::from(tuner.iteration()))?;
        let mut last = reported.last().cloned().unwrap_or_default();
        let mut log = MetricsLog::begin(&path, &reported)?;
        let (steps, done) = (u64::from(self.iterations), u64::from(tuner.iteration()));
        // As in TRL, the metrics of PPO have other names than those of GRPO and RLOO.
        let shown = &[
            ("objective/scores", "score"),
            ("reward", "reward"),
            ("objective/kl", "kl"),
            ("kl", "kl"),
            ("loss", "loss"),
        ];
        let mut view = TrainingView::new("iterations", steps, done, shown);
        let cancel = interrupt::cancel_flag()?;
        let every = self.model.checkpoint_every.unwrap_or(1);
        while !tuner.is_done() {
            let mut unlogged = None;
            let mut on_iteration = |report: &IterationReport| {
                last = log_line(report);
                view.show(u64::from(report.iteration), &last);
                unlogged = log.add(&last).and_then(|()| log.sync()).err();
            };
            let mut on_checkpoint = |_: u32, bytes: Vec<u8>| {
                folder.write_checkpoint(&bytes).map_err(|error| write_error(folder.dir(), &error))
            };
            let hooks = TuningHooks {
                on_iteration: &mut on_iteration,
                checkpoint_every: every,
                on_checkpoint: &mut on_checkpoint,
            };
            let tuned = tuner.run(scorer, hooks, &cancel);
            if let Some(error) = unlogged {
                return Err(write_error(&path, &error).into());
            }
            match tuned {
                Err(ModelError::Cancelled) => {
                    folder.write_checkpoint(&tuner.checkpoint()?)?;
                    return Err(Interrupted(RESUME_HINT).into());
                }
                tuned => tuned.map_err(map_cancelled)?,
            }
        }
        Ok(last)
    }
}

/// Returns an iteration as one object of the log. Its number is in `step`, as in other trainings.
fn log_line(report: &IterationReport) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("step".to_owned(), report.iteration.into());
    line.extend(report.metrics.iter().map(|(name, &value)| (name.clone(), value.into())));
    line.insert("seconds".to_owned(), report.phases.total().as_secs_f64().into());
    line.insert("overhead".to_owned(), report.phases.overhead().into());
    line
}

/// Scores completions by a reward model, so that a larger score is better.
struct SignedRewardScorer {
    scorer: RewardScorer,
    kind: RewardKind,
}

impl Scorer for SignedRewardScorer {
    fn score(
        &mut self,
        answers: &[SampledCompletion<'_>],
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        let scores = self.scorer.score(answers, cancel)?;
        Ok(scores.into_iter().map(|score| self.kind.reward(score)).collect())
    }
}
