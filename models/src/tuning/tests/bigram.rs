//! A policy that can be computed by hand: a table of logits gives the next token from the last one. The value
//! depends on the last token too.

use dissent_domain::generation::{FinishReason, SamplingParams};

use super::super::rollout_math::single;
use super::super::{EvaluatedModel, TunedPolicy};
use crate::error::ModelError;
use crate::generation::{GenerationJob, SampledTokens};
use crate::runtime::CancelFlag;
use crate::sampling::{SampleRng, Sampler};
use crate::training::{AdamWStep, BatchOutput, LossInputs, ModelOutputs, TrainingSequence, TrainingState};

/// The number of tokens; token 0 ends a completion.
pub(super) const VOCABULARY: usize = 5;
const STOP: u32 = 0;

pub(super) struct Bigram {
    state: TrainingState,
    reference: Vec<f32>,
    gradient: Vec<f32>,
    /// The parameters of the sampler.
    sampler: Vec<f32>,
    /// The number of the call of `step` or `accumulate` that fails, from 1.
    pub(super) failing_call: Option<u32>,
    calls: u32,
}

impl Bigram {
    pub(super) fn new() -> Self {
        // About every sixth token ends the completion; all other tokens are equally likely.
        let logits =
            (0..VOCABULARY * VOCABULARY).map(|place| if place % VOCABULARY == 0 { -0.2 } else { 0.0 });
        let parameters: Vec<f32> = logits.chain([0.0; VOCABULARY]).collect();
        Self {
            reference: parameters.clone(),
            gradient: vec![0.0; parameters.len()],
            sampler: parameters.clone(),
            state: TrainingState::new(parameters),
            failing_call: None,
            calls: 0,
        }
    }

    /// Adds dL/dθ of a micro-batch and returns its outputs.
    fn learn(
        &mut self,
        sequences: &[TrainingSequence],
        inputs: &LossInputs,
    ) -> Result<BatchOutput, ModelError> {
        self.calls += 1;
        if self.failing_call == Some(self.calls) {
            return Err(ModelError::Runtime("the machine is on fire".to_owned()));
        }
        let model = outputs(&self.state.parameters, sequences);
        let lengths: Vec<usize> =
            sequences.iter().map(|each| each.ids.len() - each.completion_start).collect();
        let mut rest = model.logprobs.as_slice();
        let sequence_logprobs: Vec<f32> = lengths
            .iter()
            .map(|&length| {
                let (of_sequence, after) = rest.split_at(length);
                rest = after;
                of_sequence.iter().sum()
            })
            .collect();
        let (loss, by_token, by_value) = slopes(inputs, &model, &sequence_logprobs, &lengths);
        for (index, (last, next)) in transitions(sequences).enumerate() {
            let row = last * VOCABULARY..(last + 1) * VOCABULARY;
            let logits = &self.state.parameters[row.clone()];
            let normaliser = log_sum(logits);
            for (token, place) in row.enumerate() {
                let probability = (self.state.parameters[place] - normaliser).exp();
                let chosen = if token == next { 1.0 } else { 0.0 };
                self.gradient[place] += by_token[index] * (chosen - probability);
            }
            self.gradient[VOCABULARY * VOCABULARY + last] += by_value.get(index).unwrap_or(&0.0);
        }
        let gradient_norm = self.gradient.iter().map(|slope| slope * slope).sum::<f32>().sqrt();
        Ok(BatchOutput { loss, gradient_norm, sequence_logprobs, model })
    }
}

fn log_sum(logits: &[f32]) -> f32 {
    logits.iter().map(|logit| logit.exp()).sum::<f32>().ln()
}

fn transitions(sequences: &[TrainingSequence]) -> impl Iterator<Item = (usize, usize)> {
    sequences.iter().flat_map(|sequence| {
        let pairs = sequence.ids[sequence.completion_start - 1..].windows(2);
        pairs.map(|pair| (pair[0] as usize, pair[1] as usize))
    })
}

fn outputs(parameters: &[f32], sequences: &[TrainingSequence]) -> ModelOutputs {
    let mut outputs = ModelOutputs::default();
    for (last, next) in transitions(sequences) {
        let logits = &parameters[last * VOCABULARY..(last + 1) * VOCABULARY];
        let normaliser = log_sum(logits);
        outputs.logprobs.push(logits[next] - normaliser);
        outputs.values.push(parameters[VOCABULARY * VOCABULARY + last]);
        outputs
            .entropy
            .push(logits.iter().map(|logit| (normaliser - logit) * (logit - normaliser).exp()).sum());
    }
    outputs
}

/// Returns the loss, and its derivative by each token's log-probability and value.
fn slopes(
    inputs: &LossInputs,
    model: &ModelOutputs,
    sequence_logprobs: &[f32],
    lengths: &[usize],
) -> (f32, Vec<f32>, Vec<f32>) {
    // Derivative of w · max(−A ρ, −A clip(ρ)).
    let clipped = |logprob: f32, old: f32, advantage: f32, weight: f32, clip: f32| {
        let ratio = (logprob - old).exp();
        let (free, bounded) = (-advantage * ratio, -advantage * ratio.clamp(1.0 - clip, 1.0 + clip));
        (weight * free.max(bounded), if bounded > free { 0.0 } else { weight * free })
    };
    let mut loss = 0.0;
    let (mut by_token, mut by_value) = (Vec::new(), Vec::new());
    match inputs {
        LossInputs::Ppo {
            old_logprobs,
            old_values,
            advantages,
            returns,
            weights,
            clip,
            value_clip,
            value_coefficient,
        } => {
            for (index, &logprob) in model.logprobs.iter().enumerate() {
                let weight = weights[index];
                let (policy, slope) = clipped(logprob, old_logprobs[index], advantages[index], weight, *clip);
                let (value, old, target) = (model.values[index], old_values[index], returns[index]);
                let bounded = old + (value - old).clamp(-value_clip, *value_clip);
                let (free_error, bounded_error) = (value - target, bounded - target);
                let is_clipped = bounded_error * bounded_error > free_error * free_error;
                let worse = if is_clipped { bounded_error } else { free_error };
                loss += policy + 0.5 * weight * value_coefficient * worse * worse;
                by_token.push(slope);
                by_value.push(if is_clipped { 0.0 } else { weight * value_coefficient * free_error });
            }
        }
        LossInputs::Grpo { old_logprobs, reference_logprobs, advantages, weights, clip, kl_coefficient } => {
            for (index, &logprob) in model.logprobs.iter().enumerate() {
                let weight = weights[index];
                let (policy, slope) = clipped(logprob, old_logprobs[index], advantages[index], weight, *clip);
                let behind = reference_logprobs[index] - logprob;
                loss += policy + weight * kl_coefficient * (behind.exp() - behind - 1.0);
                by_token.push(slope + weight * kl_coefficient * (1.0 - behind.exp()));
            }
        }
        LossInputs::Rloo { old_logprobs, advantages, weights, clip } => {
            for (index, &length) in lengths.iter().enumerate() {
                let logprob = sequence_logprobs[index];
                let (policy, slope) =
                    clipped(logprob, old_logprobs[index], advantages[index], weights[index], *clip);
                loss += policy;
                by_token.extend(std::iter::repeat_n(slope, length));
            }
        }
        LossInputs::Sft { .. }
        | LossInputs::BradleyTerry { .. }
        | LossInputs::Cost { .. }
        | LossInputs::Dpo { .. } => {
            unreachable!("no loss of a method that samples")
        }
    }
    (loss, by_token, by_value)
}

impl TunedPolicy for Bigram {
    fn fingerprint(&self) -> String {
        "bigram".to_owned()
    }

    fn synchronise(&mut self) -> Result<(), ModelError> {
        self.sampler.clone_from(&self.state.parameters);
        Ok(())
    }

    fn sample(
        &mut self,
        jobs: &[GenerationJob],
        params: &SamplingParams,
        cancel: &CancelFlag,
    ) -> Result<Vec<Vec<SampledTokens>>, ModelError> {
        cancel.check()?;
        let mut sampler = Sampler::new(params);
        let mut complete = |prompt_ids: &[u32], seed: [u8; 32]| {
            let mut rng = SampleRng::new(seed);
            let (mut last, mut logprob) = (prompt_ids[prompt_ids.len() - 1] as usize, 0.0);
            let mut token_ids = Vec::new();
            let letter = |id: u32| char::from(b'a' + u8::try_from(id).unwrap_or(25)).to_string();
            let mut stop;
            let finish_reason = loop {
                let choice =
                    sampler.choose(&self.sampler[last * VOCABULARY..(last + 1) * VOCABULARY], &mut rng);
                token_ids.push(choice.token);
                (last, logprob) = (choice.token as usize, logprob + choice.logprob);
                stop = params.stop.iter().find(|text| **text == letter(choice.token)).cloned();
                if choice.token == STOP || stop.is_some() {
                    break FinishReason::Stop;
                }
                if token_ids.len() == params.max_new_tokens as usize {
                    break FinishReason::Length;
                }
            };
            SampledTokens { token_ids, logprob, finish_reason, stop }
        };
        let complete_job =
            |job: &GenerationJob| job.seeds.iter().map(|&seed| complete(&job.prompt_ids, seed)).collect();
        Ok(jobs.iter().map(complete_job).collect())
    }

    fn text(&self, token_ids: &[u32]) -> Result<String, ModelError> {
        Ok(token_ids.iter().map(|id| char::from(b'a' + u8::try_from(*id).unwrap_or(25))).collect())
    }

    fn evaluate(
        &mut self,
        model: EvaluatedModel,
        sequences: &[TrainingSequence],
        cancel: &CancelFlag,
    ) -> Result<ModelOutputs, ModelError> {
        cancel.check()?;
        let parameters = match model {
            EvaluatedModel::Policy => &self.state.parameters,
            EvaluatedModel::Reference => &self.reference,
        };
        Ok(outputs(parameters, sequences))
    }

    fn accumulate(
        &mut self,
        sequences: &[TrainingSequence],
        inputs: &LossInputs,
        cancel: &CancelFlag,
    ) -> Result<BatchOutput, ModelError> {
        cancel.check()?;
        self.learn(sequences, inputs)
    }

    fn step(
        &mut self,
        sequences: &[TrainingSequence],
        inputs: &LossInputs,
        adam: &AdamWStep,
        cancel: &CancelFlag,
    ) -> Result<BatchOutput, ModelError> {
        cancel.check()?;
        let output = self.learn(sequences, inputs)?;
        let [beta_1, beta_2] = adam.betas.map(single);
        let exponent = i32::try_from(adam.step).expect("few steps");
        let TrainingState { parameters, first_moment, second_moment } = &mut self.state;
        for (index, slope) in self.gradient.iter_mut().enumerate() {
            first_moment[index] = beta_1 * first_moment[index] + (1.0 - beta_1) * *slope;
            second_moment[index] = beta_2 * second_moment[index] + (1.0 - beta_2) * *slope * *slope;
            let mean = first_moment[index] / (1.0 - beta_1.powi(exponent));
            let spread = (second_moment[index] / (1.0 - beta_2.powi(exponent))).sqrt();
            parameters[index] -= single(adam.learning_rate) * mean / (spread + single(adam.epsilon));
            *slope = 0.0;
        }
        Ok(output)
    }

    fn state(&self) -> &TrainingState {
        &self.state
    }

    fn restore(&mut self, state: TrainingState) -> Result<(), ModelError> {
        self.state = state;
        self.gradient.fill(0.0);
        Ok(())
    }
}
