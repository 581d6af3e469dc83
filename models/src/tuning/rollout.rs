//! Rollouts: sampling from the policy, scoring, and evaluation before training.

use dissent_domain::generation::{FinishReason, SamplingParams};
use dissent_domain::training::{Dialogue, Hyperparameters, PpoSettings};

use super::phases::{Phase, PhaseTimer};
use super::policy::{EvaluatedModel, TunedPolicy};
use crate::error::{InvalidKind, ModelError};
use crate::generation::{GenerationJob, SampledTokens};
use crate::runtime::CancelFlag;
use crate::training::{DataOrder, DataPlan};
use crate::training::{TrainingHead, TrainingSequence};

/// A prompt that the policy is tuned on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TuningPrompt {
    /// The prompt as text or turns, for the scorer.
    pub dialogue: Dialogue,
    /// The prompt's tokens for the policy, including the beginning of the assistant's turn; at least one.
    pub ids: Vec<u32>,
}

/// A sampled completion to score, cut at its stop token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledCompletion<'a> {
    /// The index of its prompt.
    pub prompt: usize,
    /// The prompt.
    pub dialogue: &'a Dialogue,
    /// The completion's text, without special tokens.
    pub text: &'a str,
    /// The completion's tokens, without the stop token.
    pub token_ids: &'a [u32],
}

/// A reward for completions: a reward model, or a rule.
pub trait Scorer {
    /// One finite reward for each completion, in order; higher is better.
    ///
    /// # Errors
    /// [`ModelError`] if a completion cannot be scored.
    fn score(
        &mut self,
        completions: &[SampledCompletion<'_>],
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError>;
}

/// One sampled completion with its score and its log-probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// The index of its prompt.
    pub prompt: usize,
    /// Prompt and completion as sampled, including the stop token.
    pub sequence: TrainingSequence,
    /// Whether it ended with a stop token or a stop text.
    pub stopped: bool,
    /// Whether its last token is a stop token, which is not part of its text.
    pub(super) has_stop_token: bool,
    /// The completion's text.
    pub text: String,
    /// The reward of the scorer.
    pub score: f64,
    /// log π of each completion token at sampling time, in nats.
    pub logprobs: Vec<f64>,
    /// log π of each completion token under the reference, in nats.
    pub reference_logprobs: Vec<f64>,
    /// The value of the position before each completion token; empty without a value head.
    pub values: Vec<f64>,
}

impl Rollout {
    /// Completion tokens, including the stop token.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.logprobs.len()
    }
}

/// The plan for the rollouts of an iteration.
pub(super) struct RolloutPlan<'a> {
    pub(super) prompts: &'a [TuningPrompt],
    /// Indices of the prompts that may be drawn.
    pub(super) usable: &'a [usize],
    pub(super) settings: &'a PpoSettings,
    pub(super) training: &'a Hyperparameters,
    pub(super) head: TrainingHead,
}

/// Samples, scores and evaluates the completions of one iteration. The completions of each drawn prompt are
/// consecutive.
pub(super) fn roll_out(
    plan: &RolloutPlan<'_>,
    iteration: u32,
    policy: &mut impl TunedPolicy,
    scorer: &mut dyn Scorer,
    timer: &mut PhaseTimer,
    cancel: &CancelFlag,
) -> Result<Vec<Rollout>, ModelError> {
    let drawn = plan.draw(iteration);
    let jobs: Vec<GenerationJob> = drawn.iter().map(|&(draw, prompt)| plan.job(draw, prompt)).collect();
    let params = SamplingParams {
        samples: plan.settings.samples,
        temperature: plan.settings.temperature,
        max_new_tokens: plan.settings.max_new_tokens,
        stop: plan.settings.stop.clone(),
        ..SamplingParams::default()
    };
    policy.synchronise()?;
    let sampled = timer.time(Phase::Sampling, || policy.sample(&jobs, &params, cancel))?;
    let mut rollouts = Vec::with_capacity(jobs.len() * plan.settings.samples as usize);
    for (&(_, prompt), completions) in drawn.iter().zip(sampled) {
        for completion in completions {
            rollouts.push(begin(plan.prompts, prompt, completion, policy)?);
        }
    }
    score(plan.prompts, &mut rollouts, scorer, timer, cancel)?;
    let together = usize::try_from(plan.training.batch_size).unwrap_or(usize::MAX).max(1);
    for rollouts in rollouts.chunks_mut(together) {
        evaluate(rollouts, plan.head, policy, timer, cancel)?;
    }
    Ok(rollouts)
}

impl RolloutPlan<'_> {
    /// Returns the draws of an iteration: their numbers, counted over all iterations, and their prompts. All
    /// prompts are drawn once, in an order given by the seed, then again in another order.
    fn draw(&self, iteration: u32) -> Vec<(u64, usize)> {
        let one_by_one = Hyperparameters { batch_size: 1, gradient_accumulation: 1, ..self.training.clone() };
        let order = DataPlan::new(self.usable.len(), &one_by_one, DataOrder::Shuffled);
        let each = u64::from(self.settings.prompts);
        let first = u64::from(iteration) * each;
        let prompts = |draw| {
            let places = order.micro_batches(draw).into_iter().flatten();
            places.filter_map(|place| self.usable.get(place)).map(move |&prompt| (draw, prompt))
        };
        (first..first + each).flat_map(prompts).collect()
    }

    /// Returns the completions of a draw, each with its own seed.
    fn job(&self, draw: u64, prompt: usize) -> GenerationJob {
        let seed = |sample| sample_seed(self.training.seed, draw, prompt, sample);
        GenerationJob {
            prompt_ids: self.prompts[prompt].ids.clone(),
            seeds: (0..self.settings.samples).map(seed).collect(),
        }
    }
}

/// Returns the seed of one completion, derived from all its coordinates. `draw` counts prompts over all
/// iterations.
fn sample_seed(seed: u64, draw: u64, prompt: usize, sample: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("dissent policy tuning sample 1");
    for name in [seed, draw, prompt as u64, u64::from(sample)] {
        hasher.update(&name.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

fn begin(
    prompts: &[TuningPrompt],
    prompt: usize,
    completion: SampledTokens,
    policy: &impl TunedPolicy,
) -> Result<Rollout, ModelError> {
    let ids = &prompts[prompt].ids;
    let stopped = completion.finish_reason == FinishReason::Stop;
    let sequence = TrainingSequence {
        ids: ids.iter().chain(&completion.token_ids).copied().collect(),
        completion_start: ids.len(),
        skipped: Vec::new(),
    };
    let has_stop_token = stopped && completion.stop.is_none();
    let mut text = policy.text(completion_ids(&sequence, has_stop_token))?;
    if let Some(end) = completion.stop.and_then(|stop| text.find(&stop)) {
        text.truncate(end);
    }
    Ok(Rollout {
        prompt,
        sequence,
        stopped,
        has_stop_token,
        text,
        score: 0.0,
        logprobs: Vec::new(),
        reference_logprobs: Vec::new(),
        values: Vec::new(),
    })
}

/// Returns the completion, cut at its stop token.
fn completion_ids(sequence: &TrainingSequence, has_stop_token: bool) -> &[u32] {
    let end = sequence.ids.len() - usize::from(has_stop_token);
    sequence.ids.get(sequence.completion_start..end).unwrap_or(&[])
}

fn score(
    prompts: &[TuningPrompt],
    rollouts: &mut [Rollout],
    scorer: &mut dyn Scorer,
    timer: &mut PhaseTimer,
    cancel: &CancelFlag,
) -> Result<(), ModelError> {
    let completions: Vec<SampledCompletion<'_>> = rollouts
        .iter()
        .map(|rollout| SampledCompletion {
            prompt: rollout.prompt,
            dialogue: &prompts[rollout.prompt].dialogue,
            text: &rollout.text,
            token_ids: completion_ids(&rollout.sequence, rollout.has_stop_token),
        })
        .collect();
    let scores = timer.time(Phase::Scoring, || scorer.score(&completions, cancel))?;
    if scores.len() != rollouts.len() {
        return Err(ModelError::invalid(
            InvalidKind::Data,
            format!(
                "the scorer returned {} rewards for {} completions: it must return one for each, in order",
                scores.len(),
                rollouts.len()
            ),
        ));
    }
    for (place, (rollout, score)) in rollouts.iter_mut().zip(scores).enumerate() {
        if !score.is_finite() {
            return Err(ModelError::invalid(
                InvalidKind::NotFinite,
                format!(
                    "the scorer returned {score} for completion {place} (of prompt {}): a reward must be a finite number",
                    rollout.prompt
                ),
            ));
        }
        rollout.score = score;
    }
    Ok(())
}

/// Computes log-probabilities and values of rollouts that are run together.
fn evaluate(
    rollouts: &mut [Rollout],
    head: TrainingHead,
    policy: &mut impl TunedPolicy,
    timer: &mut PhaseTimer,
    cancel: &CancelFlag,
) -> Result<(), ModelError> {
    let sequences: Vec<TrainingSequence> = rollouts.iter().map(|rollout| rollout.sequence.clone()).collect();
    let mut figures = |model| timer.time(Phase::Forward, || policy.evaluate(model, &sequences, cancel));
    let (now, reference) = (figures(EvaluatedModel::Policy)?, figures(EvaluatedModel::Reference)?);
    let tokens: usize = sequences.iter().map(|sequence| sequence.ids.len() - sequence.completion_start).sum();
    let with_values = head == TrainingHead::VocabularyAndValue;
    let values = if with_values { now.values.len() } else { tokens };
    if [now.logprobs.len(), reference.logprobs.len(), values] != [tokens; 3] {
        return Err(ModelError::Runtime(format!(
            "the policy returned {} log-probabilities and {values} values, and the reference {}, for {tokens} tokens",
            now.logprobs.len(),
            reference.logprobs.len()
        )));
    }
    let mut start = 0;
    for rollout in rollouts {
        let end = start + rollout.sequence.ids.len() - rollout.sequence.completion_start;
        let of_rollout = |numbers: &[f32]| -> Vec<f64> {
            numbers.get(start..end).unwrap_or(&[]).iter().map(|&number| f64::from(number)).collect()
        };
        rollout.logprobs = of_rollout(&now.logprobs);
        rollout.reference_logprobs = of_rollout(&reference.logprobs);
        rollout.values = of_rollout(&now.values);
        start = end;
    }
    Ok(())
}
