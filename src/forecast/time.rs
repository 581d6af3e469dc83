//! The time of a run, from short measurements of its models on this machine.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use dissent_domain::generation::{FinishReason, SamplingParams, sample_seed};
use dissent_domain::plan::LearningPlan;
use dissent_domain::prompt::Prompt;
use dissent_domain::training::{Hyperparameters, PolicyMethod};
use dissent_models::generation::{GenerationJob, Generator};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::template::PromptTemplate;
use dissent_models::training::{
    DataOrder, Objective, TokenPair, Trainer, TrainingData, TrainingSequence, TrainingSetup,
};
use serde::Serialize;

use super::labels::LabelForecast;
use crate::config::Config;
use crate::experiment::models::{self, Model, Models};
use crate::experiment::plan::PlannedExperiment;
use crate::experiment::start::rows;
use crate::progress::clock;

/// New tokens of the two short generations, whose difference is the time of decoding.
const SHORT_TOKENS: [u32; 2] = [4, 16];
/// Sequences that are scored for a measurement.
const SCORED: usize = 6;

/// The predicted time of a run, or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TimeForecast {
    /// Seconds of the whole run without the time of people.
    seconds: Option<f64>,
    /// Seconds of each step over all rounds.
    steps: Vec<StepTime>,
    /// What is not in the prediction, and why.
    without: Vec<String>,
}

/// The predicted time of one step over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct StepTime {
    step: &'static str,
    seconds: f64,
}

impl TimeForecast {
    pub(super) fn unknown(reason: &str) -> Self {
        Self { seconds: None, steps: Vec::new(), without: vec![reason.to_owned()] }
    }

    /// Measures the models for a few seconds. A model that fails here would fail the run, too; the reason is
    /// part of the prediction.
    pub(super) fn measured(
        config: &Config,
        models: &Models,
        planned: &PlannedExperiment,
        labels: &LabelForecast,
    ) -> Self {
        let measured = models::runtime(&config.runtime, rows(config)).map_err(anyhow::Error::from).and_then(
            |(runtime, options)| Measurement { config, models, planned, labels, runtime, options }.all(),
        );
        measured.unwrap_or_else(|error| Self::unknown(&format!("{error:#}")))
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for StepTime { step, seconds } in &self.steps {
            text.push_str(&format!("time    {step:<16} {}\n", clock(*seconds)));
        }
        if let Some(seconds) = self.seconds {
            text.push_str(&format!(
                "time    {:<16} {} on this machine, as busy as it is now\n",
                "whole run",
                clock(seconds)
            ));
        }
        for reason in &self.without {
            text.push_str(&format!("time    not predicted    {reason}\n"));
        }
        text
    }
}

/// Times of the policy's sampling.
struct Sampling {
    open: Duration,
    /// Seconds of a batch before its first token, and of each further token of all its rows.
    prefill: f64,
    token: f64,
    /// Prompts of the batch, and their completions.
    prompts: f64,
    /// Expected tokens of a completion.
    completion: f64,
    /// Mean tokens of a prompt.
    prompt_tokens: usize,
}

impl Sampling {
    /// Returns the seconds for a number of prompts with as many completions each.
    fn seconds(&self, prompts: f64) -> f64 {
        prompts / self.prompts * (self.prefill + self.token * self.completion)
    }
}

struct Measurement<'a> {
    config: &'a Config,
    models: &'a Models,
    planned: &'a PlannedExperiment,
    labels: &'a LabelForecast,
    runtime: &'static OnnxRuntime,
    options: SessionOptions,
}

impl Measurement<'_> {
    fn all(&self) -> anyhow::Result<TimeForecast> {
        let rounds = f64::from(self.config.experiment.rounds);
        let prompts = self.planned.prompts.len() as f64;
        let samples = f64::from(self.config.generation.samples);
        let sampling = self.sampling().context("generation")?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of tokens")]
        let length = sampling.prompt_tokens + sampling.completion.ceil() as usize;
        let (open, scoring) = self.reward_scoring(length).context("reward")?;
        let mut forecast = TimeForecast { seconds: None, steps: Vec::new(), without: Vec::new() };
        let mut add = |step, seconds: f64| forecast.steps.push(StepTime { step, seconds });
        add("start", (sampling.open + open).as_secs_f64());
        add("generation", rounds * sampling.seconds(prompts));
        add("reward", rounds * prompts * samples * scoring);
        if let Some(learning) = &self.planned.plan.learning {
            let (first, step) = self.refinement(learning, length).context("refinement")?;
            let pairs = self.labels.judgements_max as f64;
            add("refinement", rounds * (first + step * steps(&learning.refinement.hyperparameters, pairs)));
            match learning.tuning.objective.method {
                PolicyMethod::Dpo | PolicyMethod::Rso => {
                    let settings = &learning.tuning.hyperparameters;
                    let (first, step) = self.tuning(learning, &sampling).context("tuning")?;
                    // The refined reward model ranks the completions, whose best and worst make a pair.
                    let ranking = prompts * samples * scoring;
                    let batch = f64::from(settings.batch_size);
                    let reference = (first - step).max(0.0) / batch * prompts;
                    add("tuning", rounds * (ranking + reference + step * steps(settings, prompts)));
                }
                PolicyMethod::Ppo | PolicyMethod::Grpo | PolicyMethod::Rloo => forecast
                    .without
                    .push("the tuning: a method that samples as it learns is not measured".to_owned()),
            }
            let mut add = |step, seconds: f64| forecast.steps.push(StepTime { step, seconds });
            let held_out = self.planned.held_out.len() as f64;
            let each = f64::from(learning.evaluation.samples);
            let likelihood = self.policy_scoring(&sampling).context("evaluation")?;
            let share = each / samples;
            // Both reward models score, and from the second evaluation on the first policy does.
            let scored = held_out * each * 2.0 * scoring;
            let sampled = sampling.seconds(held_out) * share;
            let first_policy = rounds * held_out * each * likelihood;
            add("evaluation", (rounds + 1.0) * (sampled + scored) + first_policy);
            if self.labels.by_people {
                forecast.without.push("the judgements of people".to_owned());
            }
        }
        forecast.seconds = Some(forecast.steps.iter().map(|step| step.seconds).sum());
        Ok(forecast)
    }

    fn prompt_ids(&self, prompt: &Prompt) -> anyhow::Result<Vec<u32>> {
        let template: PromptTemplate = self.config.policy.template.parse()?;
        Ok(template.encode_dialogue(&self.models.policy.checkpoint.tokenizer, &prompt.dialogue())?)
    }

    /// Samples a batch of prompts with few tokens, and with more.
    fn sampling(&self) -> anyhow::Result<Sampling> {
        let begun = Instant::now();
        let model = &self.models.policy;
        let checkpoint = model.sampling.as_deref().unwrap_or(&model.checkpoint);
        let mut generator = Generator::open(self.runtime, checkpoint, model.adapter.as_ref(), &self.options)?;
        let batch: Vec<&Prompt> =
            self.planned.prompts.iter().take(self.config.generation.batch_prompts.max(1)).collect();
        let seeds = |prompt: &Prompt| {
            let (key, seed) = (self.planned.plan.sampling_key(), self.planned.plan.seed);
            let seed = |sample| sample_seed(key, seed, 0, &prompt.prompt_id, sample);
            (0..self.config.generation.samples).map(seed).collect()
        };
        let job = |prompt: &&Prompt| {
            anyhow::Ok(GenerationJob { prompt_ids: self.prompt_ids(prompt)?, seeds: seeds(prompt) })
        };
        let jobs = batch.iter().map(job).collect::<anyhow::Result<Vec<_>>>()?;
        let cancel = CancelFlag::new();
        let most = self.config.generation.max_new_tokens;
        let params = |tokens: u32| SamplingParams {
            max_new_tokens: tokens.min(most),
            ..self.config.generation.sampling()
        };
        // The first run of a session allocates its memory.
        generator.generate(&jobs, &params(2), &cancel, &mut |_| ())?;
        let open = begun.elapsed();
        let [few, more] = SHORT_TOKENS;
        let short = Instant::now();
        generator.generate(&jobs, &params(few), &cancel, &mut |_| ())?;
        let short = short.elapsed().as_secs_f64();
        let long = Instant::now();
        let sampled = generator.generate(&jobs, &params(more), &cancel, &mut |_| ())?;
        let long = long.elapsed().as_secs_f64();
        let steps = f64::from(more.min(most)) - f64::from(few.min(most));
        let token = if steps > 0.0 { (long - short).max(0.0) / steps } else { long / f64::from(most.max(1)) };
        let all = || sampled.iter().flatten();
        let tokens: usize = all().map(|completion| completion.token_ids.len()).sum();
        let ends = all().filter(|completion| completion.finish_reason == FinishReason::Stop).count();
        let lengths: usize = jobs.iter().map(|job| job.prompt_ids.len()).sum();
        Ok(Sampling {
            open,
            prefill: (short - token * f64::from(few.min(most))).max(0.0),
            token,
            prompts: jobs.len() as f64,
            completion: expected_length(ends as f64 / tokens.max(1) as f64, most.into()),
            prompt_tokens: lengths / jobs.len().max(1),
        })
    }

    /// Returns the time to open the reward model, and the seconds of one sequence of this length.
    fn reward_scoring(&self, length: usize) -> anyhow::Result<(Duration, f64)> {
        let begun = Instant::now();
        let Model { checkpoint, adapter, .. } = &self.models.reward;
        let mut scorer = RewardModel::open(self.runtime, checkpoint, adapter.as_ref(), &self.options)?;
        let length = length.min(checkpoint.config.context_length);
        let sequences = vec![self.filler(length); SCORED];
        scorer.score(&sequences[..1], &CancelFlag::new(), &mut |_| ())?;
        let open = begun.elapsed();
        let scored = Instant::now();
        scorer.score(&sequences, &CancelFlag::new(), &mut |_| ())?;
        Ok((open, scored.elapsed().as_secs_f64() / SCORED as f64))
    }

    /// Returns the seconds of the log-probability of one completion.
    fn policy_scoring(&self, sampling: &Sampling) -> anyhow::Result<f64> {
        let Model { checkpoint, adapter, .. } = &self.models.policy;
        let mut scorer = PolicyScorer::open(self.runtime, checkpoint, adapter.as_ref(), &self.options)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of tokens")]
        let completion = (sampling.completion.ceil() as usize).max(1);
        let item = ScoreItem {
            prompt_ids: self.filler(sampling.prompt_tokens.max(1)),
            completion_ids: self.filler(completion),
        };
        let items = vec![item; SCORED];
        scorer.score(&items[..1], &CancelFlag::new(), &mut |_| ())?;
        let scored = Instant::now();
        scorer.score(&items, &CancelFlag::new(), &mut |_| ())?;
        Ok(scored.elapsed().as_secs_f64() / SCORED as f64)
    }

    /// Tokens of a real prompt, repeated to a length.
    fn filler(&self, length: usize) -> Vec<u32> {
        let prompt = self.planned.prompts.first().and_then(|prompt| self.prompt_ids(prompt).ok());
        let prompt = prompt.filter(|ids| !ids.is_empty()).unwrap_or_else(|| vec![1]);
        prompt.into_iter().cycle().take(length.max(1)).collect()
    }

    fn refinement(&self, learning: &LearningPlan, length: usize) -> anyhow::Result<(f64, f64)> {
        let settings = learning.refinement.hyperparameters.clone();
        self.training(&self.models.reward, Objective::Reward { center: 0.0 }, settings, length, 1)
    }

    fn tuning(&self, learning: &LearningPlan, sampling: &Sampling) -> anyhow::Result<(f64, f64)> {
        let settings = learning.tuning.hyperparameters.clone();
        let objective = &learning.tuning.objective;
        #[expect(clippy::cast_possible_truncation, reason = "a setting of a few digits")]
        let beta = objective.beta as f32;
        let dpo = Objective::Dpo { loss: objective.loss, beta, linear: 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of tokens")]
        let length = sampling.prompt_tokens + sampling.completion.ceil() as usize;
        self.training(&self.models.policy, dpo, settings, length, sampling.prompt_tokens.max(1))
    }

    /// Trains two steps on pairs of this length. Returns the seconds of the first step, with the opening of
    /// the session, and of the second.
    fn training(
        &self,
        model: &Model,
        objective: Objective,
        settings: Hyperparameters,
        length: usize,
        prompt: usize,
    ) -> anyhow::Result<(f64, f64)> {
        let most = usize::try_from(settings.max_length)?;
        let length = length.min(most).min(model.checkpoint.config.context_length).max(prompt + 1);
        let pairs = settings.batch_size.saturating_mul(settings.gradient_accumulation);
        let sequence = || TrainingSequence {
            ids: self.filler(length),
            completion_start: prompt.min(length - 1),
            skipped: Vec::new(),
        };
        let pair = || TokenPair { chosen: sequence(), rejected: sequence(), margin: 0.0, is_unsafe: None };
        let data = TrainingData::Pairs((0..pairs).map(|_| pair()).collect());
        let settings = Hyperparameters { steps: Some(2), ..settings };
        let setup = TrainingSetup { objective, settings, order: DataOrder::AsGiven };
        let (checkpoint, adapter) = (&model.checkpoint, model.adapter.as_ref());
        let first = Instant::now();
        let mut trainer = Trainer::open(self.runtime, checkpoint, adapter, setup, data, &self.options)?;
        trainer.step(&CancelFlag::new())?;
        let first = first.elapsed().as_secs_f64();
        let second = Instant::now();
        trainer.step(&CancelFlag::new())?;
        Ok((first, second.elapsed().as_secs_f64()))
    }
}

/// Returns the number of steps of a training on this number of examples.
fn steps(settings: &Hyperparameters, examples: f64) -> f64 {
    let batch = f64::from(settings.batch_size) * f64::from(settings.gradient_accumulation);
    settings.steps.map_or_else(|| (examples * settings.epochs / batch).ceil(), |steps| steps as f64)
}

/// Returns the expected tokens of a completion that ends at each token with the same probability.
fn expected_length(end: f64, most: f64) -> f64 {
    if end <= 0.0 { most } else { ((1.0 - (1.0 - end).powf(most)) / end).min(most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_as_long_as_its_chance_to_end_allows() {
        assert!((expected_length(0.0, 48.0) - 48.0).abs() < 1e-9);
        assert!((expected_length(1.0, 48.0) - 1.0).abs() < 1e-9);
        assert!((expected_length(0.5, 48.0) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn steps_follow_from_epochs_unless_they_are_set() {
        let settings = Hyperparameters {
            batch_size: 4,
            gradient_accumulation: 2,
            epochs: 2.0,
            ..Hyperparameters::default()
        };
        assert!((steps(&settings, 9.0) - 3.0).abs() < 1e-9);
        assert!((steps(&Hyperparameters { steps: Some(5), ..settings }, 9.0) - 5.0).abs() < 1e-9);
    }
}
