//! What is common to the methods: which one it is, what each completion teaches, and means of what the steps report.

use std::collections::BTreeMap;

use dissent_domain::training::advantage::penalised_score;
use dissent_domain::training::{PolicyMethod, PpoSettings};

use super::rollout::Rollout;
use super::{grpo, ppo, rloo};
use crate::error::ModelError;
use crate::training::{BatchOutput, Loss, LossInputs};

pub(super) use crate::training::metrics::mean;

/// The methods that sample as they learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Ppo,
    Grpo,
    Rloo,
}

/// What one completion teaches.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Lesson {
    /// One for each completion token (PPO), or one for the completion.
    pub(super) advantages: Vec<f64>,
    /// What the value of each position should have been (PPO).
    pub(super) returns: Vec<f64>,
}

/// The completions of a micro-batch.
pub(super) struct MicroBatch<'a> {
    pub(super) members: Vec<(&'a Rollout, &'a Lesson)>,
    /// Completion tokens of the whole step, of which this may be a part.
    pub(super) step_tokens: usize,
    /// Completions of the whole step.
    pub(super) step_completions: usize,
}

impl TryFrom<PolicyMethod> for Method {
    type Error = ModelError;

    fn try_from(method: PolicyMethod) -> Result<Self, ModelError> {
        match method {
            PolicyMethod::Ppo => Ok(Self::Ppo),
            PolicyMethod::Grpo => Ok(Self::Grpo),
            PolicyMethod::Rloo => Ok(Self::Rloo),
            PolicyMethod::Dpo | PolicyMethod::Rso => Err(ModelError::Invalid(
                "dpo and rso learn from pairs that are there beforehand: make pairs of scored completions, and train on them; \
                 ppo, grpo and rloo sample as they learn"
                    .to_owned(),
            )),
        }
    }
}

impl Method {
    pub(super) fn loss(self) -> Loss {
        match self {
            Self::Ppo => Loss::Ppo,
            Self::Grpo => Loss::Grpo,
            Self::Rloo => Loss::Rloo,
        }
    }

    /// What each rollout teaches, and what is to be reported of them.
    pub(super) fn lessons(
        self,
        rollouts: &[Rollout],
        settings: &PpoSettings,
        kl_coefficient: f64,
        metrics: &mut BTreeMap<String, f64>,
    ) -> Vec<Lesson> {
        match self {
            Self::Ppo => ppo::lessons(rollouts, settings, kl_coefficient, metrics),
            Self::Grpo => grpo::lessons(rollouts, settings, metrics),
            Self::Rloo => rloo::lessons(rollouts, settings, kl_coefficient, metrics),
        }
    }

    pub(super) fn inputs(
        self,
        batch: &MicroBatch<'_>,
        settings: &PpoSettings,
        kl_coefficient: f64,
    ) -> LossInputs {
        match self {
            Self::Ppo => ppo::inputs(batch, settings),
            Self::Grpo => grpo::inputs(batch, settings, kl_coefficient),
            Self::Rloo => rloo::inputs(batch, settings),
        }
    }

    /// Takes in what a micro-batch gave.
    pub(super) fn observe(self, inputs: &LossInputs, output: &BatchOutput, means: &mut Means) {
        match self {
            Self::Ppo => ppo::observe(inputs, output, means),
            Self::Grpo => grpo::observe(inputs, output, means),
            Self::Rloo => rloo::observe(inputs, output, means),
        }
    }
}

/// What a completion is rewarded with, after the penalty for one that did not stop.
pub(super) fn rewards(rollouts: &[Rollout], settings: &PpoSettings) -> Vec<f64> {
    let penalty = settings.missing_eos_penalty;
    rollouts.iter().map(|rollout| penalised_score(rollout.score, rollout.stopped, penalty)).collect()
}

/// The estimated divergence of each completion from the reference: the sum over its tokens, in nats.
pub(super) fn divergences(rollouts: &[Rollout], settings: &PpoSettings) -> Vec<f64> {
    let estimator = settings.kl_estimator;
    let sum = |rollout: &Rollout| {
        estimator.estimates(&rollout.logprobs, &rollout.reference_logprobs).iter().sum::<f64>()
    };
    rollouts.iter().map(sum).collect()
}

/// The metrics that GRPO and RLOO share, as TRL names them: the mean and the standard deviation (ddof 1) of all rewards of the
/// iteration, and the mean length of completions in tokens.
pub(super) fn report_rewards(rollouts: &[Rollout], rewards: &[f64], metrics: &mut BTreeMap<String, f64>) {
    let (count, average) = (rewards.len() as f64, mean(rewards.iter().copied()));
    let squares: f64 = rewards.iter().map(|reward| (reward - average).powi(2)).sum();
    let deviation = if count > 1.0 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
    let lengths = rollouts.iter().map(|rollout| rollout.tokens() as f64);
    for (name, value) in
        [("reward", average), ("reward_std", deviation), ("completion_length", mean(lengths))]
    {
        metrics.insert(name.to_owned(), value);
    }
}

/// Each number of a completion's that a token takes, for all tokens of a batch.
pub(super) fn by_token(batch: &MicroBatch<'_>, numbers: impl Fn(&Rollout, &Lesson) -> Vec<f64>) -> Vec<f32> {
    batch.members.iter().flat_map(|(rollout, lesson)| narrow(&numbers(rollout, lesson))).collect()
}

/// 64-bit numbers as the graphs take them.
#[expect(clippy::cast_possible_truncation, reason = "losses are computed in 32 bits")]
pub(super) fn narrow(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&number| number as f32).collect()
}

/// One 64-bit number as the graphs take it.
#[expect(clippy::cast_possible_truncation, reason = "losses are computed in 32 bits")]
pub(super) fn single(number: f64) -> f32 {
    number as f32
}

/// Means over the micro-batches of an iteration, every one counting alike, as TRL's `_avg` metrics.
#[derive(Debug, Default)]
pub(super) struct Means(BTreeMap<&'static str, (f64, f64)>);

impl Means {
    pub(super) fn add(&mut self, name: &'static str, value: f64) {
        let (sum, count) = self.0.entry(name).or_default();
        *sum += value;
        *count += 1.0;
    }

    pub(super) fn report(self, metrics: &mut BTreeMap<String, f64>) {
        metrics.extend(self.0.into_iter().map(|(name, (sum, count))| (name.to_owned(), sum / count)));
    }
}
