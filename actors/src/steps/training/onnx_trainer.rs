//! Trains with the training graphs of the models crate.
//!
//! The reward model is refined on preferences. DPO and RSO tune the policy on pairs of its own completions,
//! ranked by the refined reward model. PPO, GRPO and RLOO sample from the policy during the training. All
//! penalise the divergence from the policy that the experiment began with.

use std::collections::BTreeMap;
use std::sync::Arc;

use dissent_domain::event::{CompletionsSampled, PolicyTuned};
use dissent_domain::generation::sample_seed;
use dissent_domain::reward::RewardKind;
use dissent_domain::training::rso::Ranking;
use dissent_domain::training::{Hyperparameters, PolicyMethod, PolicyObjective, Preference};
use dissent_models::ModelError;
use dissent_models::adapter::LoraAdapter;
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::RewardModel;
use dissent_models::template::PromptTemplate;
use dissent_models::training::{
    DataOrder, Objective, StepMetrics, TokenPair, Trainer as ModelTrainer, TrainingData, TrainingSetup,
    fresh_adapter,
};
use dissent_models::tuning::preference_pairs::{PairRule, token_pairs};
use dissent_models::tuning::{
    LoraPolicy, PolicyStart, PolicyTuner, ReferencePolicy, SampledCompletion, Scorer, TuningPrompt,
    TuningSettings,
};

use super::trainer::{Refinement, TrainedAdapter, Trainer, TrainingWatch, Tuning};
use crate::error::{StepError, StepFault, chain};
use crate::live_models::cache::ModelHandle;
use crate::live_models::shared::{Shared, lock};
use crate::live_models::versions::{Base, fingerprint};

/// Approximate number of checkpoints of a training. Each takes the disk space of the trained parameters.
const CHECKPOINTS: u64 = 10;
/// Maximum number of steps of a training whose metrics are recorded.
const RECORDED_STEPS: u64 = 200;
/// Replaces the sample index in the seeds of a prompt's pairs: no sample has this index.
const PAIRS_SAMPLE: u32 = u32::MAX;

/// A model to train, with its template.
#[derive(Clone)]
pub struct TrainableModel {
    /// The model that the experiment began with.
    pub base: Base,
    /// The template of the model.
    pub template: PromptTemplate,
}

/// Trains the models of an experiment.
pub struct OnnxTrainer {
    /// The policy.
    pub policy: TrainableModel,
    /// The reward model.
    pub reward: TrainableModel,
    /// The meaning of the reward model's score.
    pub kind: RewardKind,
}

impl Trainer for OnnxTrainer {
    fn refine(&mut self, task: Refinement, watch: &mut TrainingWatch) -> Result<TrainedAdapter, StepError> {
        let settings = &task.hyperparameters;
        let (feedback, left_out) = self.compared(&task.feedback, settings)?;
        let (original, left_out_too) = self.compared(&task.original, settings)?;
        let (preferences, rehearsed) = (count(feedback.len()), count(original.len()));
        warn_left_out("preferences", left_out + left_out_too);
        if feedback.is_empty() && original.is_empty() {
            return Err(too_long("refinement", left_out + left_out_too, "preferences", settings));
        }
        let mut pairs = original;
        pairs.extend(feedback);
        let setup = TrainingSetup {
            objective: self.reward_objective(&mut pairs),
            settings: task.hyperparameters.clone(),
            order: DataOrder::Shuffled,
        };
        let (base, from) = (&self.reward.base, task.adapter.as_deref());
        let data = TrainingData::Pairs(pairs);
        let mut trainer =
            ModelTrainer::open(base.runtime, &base.checkpoint, from, setup, data, &base.options)
                .map_err(failed)?;
        train(&mut trainer, task.resume.as_deref(), watch)?;
        trained(
            base,
            trainer.adapter(None).map_err(failed)?,
            final_metrics(&trainer),
            [preferences, rehearsed],
        )
    }

    fn tune(&mut self, task: Tuning, watch: &mut TrainingWatch) -> Result<TrainedAdapter, StepError> {
        match task.plan.objective.method {
            PolicyMethod::Dpo | PolicyMethod::Rso => self.tune_on_pairs(&task, watch),
            PolicyMethod::Ppo | PolicyMethod::Grpo | PolicyMethod::Rloo => {
                self.tune_by_sampling(&task, watch)
            }
        }
    }
}

impl OnnxTrainer {
    /// The tokens of preferences as the reward model reads them, and the number of pairs that are too long.
    fn compared(
        &self,
        preferences: &[Preference],
        settings: &Hyperparameters,
    ) -> Result<(Vec<TokenPair>, usize), StepError> {
        let TrainableModel { base, template } = &self.reward;
        let encode = |preference| template.encode_comparison(&base.checkpoint.tokenizer, preference);
        let pairs: Vec<TokenPair> =
            preferences.iter().map(encode).collect::<Result<_, ModelError>>().map_err(failed)?;
        Ok(short_enough(pairs, settings))
    }

    /// The objective of the reward model. A cost model also learns the safety labels if all pairs have them.
    /// Without labels it learns the reversed pairs: the worse completion should score higher.
    fn reward_objective(&self, pairs: &mut [TokenPair]) -> Objective {
        match self.kind {
            RewardKind::Reward => Objective::Reward { center: 0.0 },
            RewardKind::Cost if pairs.iter().all(|pair| pair.is_unsafe.is_some()) => Objective::Cost,
            RewardKind::Cost => {
                for pair in pairs {
                    std::mem::swap(&mut pair.chosen, &mut pair.rejected);
                }
                Objective::Reward { center: 0.0 }
            }
        }
    }

    fn tune_on_pairs(&self, task: &Tuning, watch: &mut TrainingWatch) -> Result<TrainedAdapter, StepError> {
        let (objective, settings) = (&task.plan.objective, &task.plan.hyperparameters);
        let (pairs, left_out) = short_enough(self.ranked(task, watch)?, settings);
        warn_left_out("pairs of completions", left_out);
        if pairs.is_empty() && left_out > 0 {
            return Err(too_long("tuning", left_out, "pairs of completions", settings));
        }
        if pairs.is_empty() {
            return self.unchanged(task);
        }
        let pairs_count = pairs.len() as f64;
        #[expect(clippy::cast_possible_truncation, reason = "a setting of a few digits")]
        let beta = objective.beta as f32;
        let setup = TrainingSetup {
            objective: Objective::Dpo { loss: objective.loss, beta, linear: 0.0 },
            settings: settings.clone(),
            order: DataOrder::Shuffled,
        };
        let (base, from) = (&self.policy.base, task.policy.as_deref());
        let data = TrainingData::Pairs(pairs);
        let mut trainer =
            ModelTrainer::open(base.runtime, &base.checkpoint, from, setup, data, &base.options)
                .map_err(failed)?;
        if let Some(first) = &base.adapter {
            trainer.set_reference(first).map_err(failed)?;
        }
        train(&mut trainer, task.resume.as_deref(), watch)?;
        let mut metrics = final_metrics(&trainer);
        metrics.insert(PolicyTuned::PAIRS.to_owned(), pairs_count);
        trained(base, trainer.adapter(None).map_err(failed)?, metrics, [0, 0])
    }

    /// The unchanged policy. The reward model scores all completions of each prompt equally, so this round
    /// has no pair to learn from; the next one may have some.
    fn unchanged(&self, task: &Tuning) -> Result<TrainedAdapter, StepError> {
        tracing::warn!(
            round = task.round,
            "keeping the policy unchanged: the reward model scores the completions of each prompt equally; if this repeats, \
             raise generation.temperature or generation.samples"
        );
        let base = &self.policy.base;
        let adapter = match task.policy.as_deref() {
            // Read back from its artifact: storing an adapter that PEFT wrote changes its fingerprint.
            Some(adapter) => {
                adapter.to_artifact().and_then(|bytes| LoraAdapter::from_artifact(&bytes)).map_err(failed)?
            }
            None => fresh_adapter(&base.checkpoint, &task.plan.hyperparameters).map_err(failed)?,
        };
        trained(base, adapter, BTreeMap::from([(PolicyTuned::PAIRS.to_owned(), 0.0)]), [0, 0])
    }

    /// Pairs of the policy's own completions, ranked by the current reward model, with the sampled token ids.
    fn ranked(&self, task: &Tuning, watch: &TrainingWatch) -> Result<Vec<TokenPair>, StepError> {
        let mut scorer = self.scorer(task.reward.clone())?;
        let mut pairs = Vec::new();
        for sampled in &task.completions {
            if watch.should_stop() {
                return Err(StepError::Cancelled);
            }
            let Some(rewards) = scorer.rewards(sampled, &watch.cancel())? else {
                tracing::warn!(prompt_id = %sampled.prompt.prompt_id, "skipping completions that do not fit the reward model");
                continue;
            };
            let token_ids: Vec<&[u32]> = sampled.completions.iter().map(|c| c.token_ids.as_slice()).collect();
            let (prompt_id, round) = (&sampled.prompt.prompt_id, task.round);
            let seed = sample_seed(&task.sampling_key, task.seed, round, prompt_id, PAIRS_SAMPLE);
            let rule = pair_rule(&task.plan.objective, token_ids.len());
            let prompt = &sampled.prompt_token_ids;
            pairs.extend(token_pairs(prompt, &token_ids, &rewards, rule, seed).map_err(failed)?);
        }
        Ok(pairs)
    }

    fn tune_by_sampling(
        &self,
        task: &Tuning,
        watch: &mut TrainingWatch,
    ) -> Result<TrainedAdapter, StepError> {
        let base = &self.policy.base;
        let settings = TuningSettings {
            objective: task.plan.objective.clone(),
            training: task.plan.hyperparameters.clone(),
        };
        let reference = base.adapter.as_deref().map_or(ReferencePolicy::Base, ReferencePolicy::Adapter);
        let start = PolicyStart { adapter: task.policy.as_deref(), value_head: None, reference };
        let policy = LoraPolicy::open(base.runtime, &base.checkpoint, &settings, start, &base.options)
            .map_err(failed)?;
        let prompts = task.completions.iter().map(|sampled| TuningPrompt {
            dialogue: sampled.prompt.dialogue(),
            ids: sampled.prompt_token_ids.clone(),
        });
        let mut tuner = PolicyTuner::new(policy, prompts.collect(), settings).map_err(failed)?;
        warn_left_out("prompts", tuner.skipped_prompts());
        if let Some(bytes) = &task.resume {
            restart_unless(tuner.restore(bytes))?;
        }
        let mut scorer = self.scorer(task.reward.clone())?;
        let iterations = u64::from(task.plan.objective.ppo.iterations);
        let pace = Pace::of(iterations);
        let mut metrics = BTreeMap::new();
        while !tuner.is_done() {
            let report = match tuner.iterate(&mut scorer, &watch.cancel()) {
                Ok(report) => report,
                Err(error) => return Err(failed(error)),
            };
            let done = u64::from(tuner.iteration());
            metrics = without_speed(report.metrics);
            watch.progressed(done, iterations, metrics.clone())?;
            if !tuner.is_done() && (watch.should_stop() || pace.keeps(done)) {
                watch.checkpoint(done, iterations, &tuner.checkpoint().map_err(failed)?)?;
            }
            if !tuner.is_done() && watch.should_stop() {
                return Err(StepError::Cancelled);
            }
        }
        trained(base, tuner.policy().adapter(None).map_err(failed)?, metrics, [0, 0])
    }

    fn scorer(&self, adapter: Option<Arc<LoraAdapter>>) -> Result<RewardScorer, StepError> {
        let TrainableModel { base, template } = &self.reward;
        let handle = base.reward_model(adapter);
        let model = handle.session().map_err(failed)?;
        Ok(RewardScorer {
            _handle: handle,
            model,
            base: base.clone(),
            template: template.clone(),
            kind: self.kind,
        })
    }
}

/// A reward model that scores completions of a policy: larger is better, also for a cost model.
struct RewardScorer {
    _handle: ModelHandle<RewardModel>,
    model: Shared<RewardModel>,
    base: Base,
    template: PromptTemplate,
    kind: RewardKind,
}

impl RewardScorer {
    /// Rewards of sampled completions; `None` if one does not fit the model.
    fn rewards(
        &mut self,
        sampled: &CompletionsSampled,
        cancel: &CancelFlag,
    ) -> Result<Option<Vec<f64>>, StepError> {
        let tokenizer = &self.base.checkpoint.tokenizer;
        let prompt = sampled.prompt.dialogue();
        let encode = |text: &str| self.template.encode_dialogue_with_completion(tokenizer, &prompt, text);
        let texts = sampled.completions.iter().map(|completion| encode(&completion.text));
        let sequences: Vec<Vec<u32>> = texts.collect::<Result<_, ModelError>>().map_err(failed)?;
        let model = lock(&self.model);
        if sequences.iter().any(|sequence| model.check_sequence(sequence).is_err()) {
            return Ok(None);
        }
        drop(model);
        self.score_sequences(&sequences, cancel).map(Some).map_err(failed)
    }

    fn score_sequences(
        &mut self,
        sequences: &[Vec<u32>],
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        let scores = lock(&self.model).score(sequences, cancel, &mut |_| ())?;
        Ok(scores.into_iter().map(|score| self.kind.reward(f64::from(score))).collect())
    }
}

impl Scorer for RewardScorer {
    fn score(
        &mut self,
        completions: &[SampledCompletion<'_>],
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        let tokenizer = &self.base.checkpoint.tokenizer;
        let encode = |completion: &SampledCompletion<'_>| {
            self.template.encode_dialogue_with_completion(tokenizer, completion.dialogue, completion.text)
        };
        let sequences = completions.iter().map(encode).collect::<Result<Vec<_>, ModelError>>()?;
        self.score_sequences(&sequences, cancel)
    }
}

/// DPO learns from the best and the worst completion of a prompt. RSO learns from pairs of the better half,
/// which rejection sampling keeps.
fn pair_rule(objective: &PolicyObjective, completions: usize) -> PairRule {
    match objective.method {
        PolicyMethod::Rso => PairRule::Rso {
            beta: objective.beta,
            kept: completions.div_ceil(2).max(2),
            ranking: Ranking::FirstRound,
        },
        PolicyMethod::Dpo | PolicyMethod::Ppo | PolicyMethod::Grpo | PolicyMethod::Rloo => {
            PairRule::BestWorst
        }
    }
}

/// The intervals of checkpoints and of recorded metrics, in steps.
struct Pace {
    checkpoint_every: u64,
    record_every: u64,
}

impl Pace {
    fn of(steps: u64) -> Self {
        Self {
            checkpoint_every: steps.div_ceil(CHECKPOINTS).max(1),
            record_every: steps.div_ceil(RECORDED_STEPS).max(1),
        }
    }

    fn keeps(&self, step: u64) -> bool {
        step.is_multiple_of(self.checkpoint_every)
    }

    fn records(&self, step: u64) -> bool {
        step.is_multiple_of(self.record_every)
    }
}

/// Runs the steps of a training, from a checkpoint if there is one.
fn train(
    trainer: &mut ModelTrainer,
    resume: Option<&[u8]>,
    watch: &mut TrainingWatch,
) -> Result<(), StepError> {
    if let Some(bytes) = resume {
        restart_unless(trainer.resume(bytes))?;
    }
    let (steps, pace) = (trainer.steps(), Pace::of(trainer.steps()));
    while let Some(metrics) = trainer.step(&watch.cancel()).map_err(failed)? {
        let done = metrics.step;
        if pace.records(done) || done == steps {
            watch.progressed(done, steps, named(&metrics))?;
        }
        if done < steps && (watch.should_stop() || pace.keeps(done)) {
            watch.checkpoint(done, steps, &trainer.checkpoint().map_err(failed)?)?;
        }
        if done < steps && watch.should_stop() {
            return Err(StepError::Cancelled);
        }
    }
    Ok(())
}

/// Ignores a checkpoint of another training, so that an invalid checkpoint does not block this one.
fn restart_unless(resumed: Result<(), ModelError>) -> Result<(), StepError> {
    match resumed {
        Err(error @ ModelError::Invalid { .. }) => {
            tracing::warn!(error = %chain(&error), "restarting a training from its first step: its checkpoint is invalid");
            Ok(())
        }
        resumed => resumed.map_err(failed),
    }
}

fn trained(
    base: &Base,
    adapter: LoraAdapter,
    metrics: BTreeMap<String, f64>,
    [preferences, rehearsed]: [u32; 2],
) -> Result<TrainedAdapter, StepError> {
    let fingerprint = fingerprint(&base.checkpoint, Some(&adapter));
    Ok(TrainedAdapter { adapter, fingerprint, preferences, rehearsed, metrics })
}

/// The metrics of a step under TRL's names.
fn named(metrics: &StepMetrics) -> BTreeMap<String, f64> {
    let line = metrics.log_line().into_iter();
    without_speed(line.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect())
}

/// Drops the speed, which depends on the machine and is not part of the result.
fn without_speed(mut metrics: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    metrics.retain(|name, _| name != "tokens_per_second" && name != "eps");
    metrics
}

fn final_metrics(trainer: &ModelTrainer) -> BTreeMap<String, f64> {
    trainer.metrics().last().map(named).unwrap_or_default()
}

/// The pairs that fit, and the number of those that do not.
fn short_enough(pairs: Vec<TokenPair>, settings: &Hyperparameters) -> (Vec<TokenPair>, usize) {
    let longest = usize::try_from(settings.max_length).unwrap_or(usize::MAX);
    let all = pairs.len();
    let fits = |pair: &TokenPair| pair.chosen.ids.len().max(pair.rejected.ids.len()) <= longest;
    let kept: Vec<TokenPair> = pairs.into_iter().filter(fits).collect();
    let left_out = all - kept.len();
    (kept, left_out)
}

fn warn_left_out(what: &str, left_out: usize) {
    if left_out > 0 {
        tracing::warn!(left_out, "skipping {what} longer than max_length");
    }
}

/// No example is short enough: only an experiment with other settings can train.
fn too_long(
    section: &'static str,
    examples: usize,
    kind: &'static str,
    settings: &Hyperparameters,
) -> StepError {
    let max_length = settings.max_length;
    StepError::fatal(StepFault::AllTooLong { section, kind, examples, max_length })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A failure of a model ends the run; a cancelled one does not.
fn failed(error: ModelError) -> StepError {
    if matches!(error, ModelError::Cancelled) { StepError::Cancelled } else { StepError::fatal(error) }
}
