//! The generation step: sampling parameters and sampled completions.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::conflict::LogprobKind;
use crate::id::PromptId;

/// Parameters of sampling from the policy's next-token distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingParams {
    /// Completions per prompt, N ≥ 1. Conflict is only defined for N ≥ 2.
    pub samples: u32,
    /// Logits are divided by this before sampling; 0 means greedy. Reported log-probabilities are always
    /// those of the untempered model.
    pub temperature: f64,
    /// Nucleus sampling, in (0, 1]: only the smallest set of tokens whose tempered probability reaches this
    /// is sampled.
    pub top_p: f64,
    /// Only the k most likely tokens are sampled; 0: all tokens.
    pub top_k: u32,
    /// Largest number of new tokens in a completion, the stop token included.
    pub max_new_tokens: u32,
    /// Texts that end a completion, beside the model's stop tokens; at most 16 of 1 to 256 bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { samples: 8, temperature: 0.7, top_p: 1.0, top_k: 0, max_new_tokens: 128, stop: Vec::new() }
    }
}

/// A sampling parameter outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} = {value} is out of range: use {range}")]
pub struct SamplingParamError {
    /// The parameter's name, as in the configuration file.
    pub name: &'static str,
    /// The value found.
    pub value: f64,
    /// The allowed range.
    pub range: &'static str,
}

impl SamplingParams {
    /// Checks every parameter against its range.
    ///
    /// # Errors
    /// The first parameter that is out of range.
    pub fn validate(&self) -> Result<(), SamplingParamError> {
        let check = |ok: bool, name, value, range| {
            if ok { Ok(()) } else { Err(SamplingParamError { name, value, range }) }
        };
        check((1..=1024).contains(&self.samples), "samples", f64::from(self.samples), "1 to 1024")?;
        check(
            (0.0..=100.0).contains(&self.temperature),
            "temperature",
            self.temperature,
            "0 (greedy) to 100",
        )?;
        check(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "top_p",
            self.top_p,
            "a number above 0, at most 1 (1 keeps every token)",
        )?;
        check(
            (1..=65_536).contains(&self.max_new_tokens),
            "max_new_tokens",
            f64::from(self.max_new_tokens),
            "1 to 65536",
        )?;
        #[expect(clippy::cast_precision_loss, reason = "a number of bytes or texts for a message")]
        let count = |count: usize| count as f64;
        check(self.stop.len() <= 16, "stop", count(self.stop.len()), "at most 16 texts")?;
        let unfit = self.stop.iter().find(|text| !(1..=256).contains(&text.len()));
        check(unfit.is_none(), "stop", count(unfit.map_or(0, String::len)), "texts of 1 to 256 bytes")
    }
}

/// Reason why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model produced a stop token.
    Stop,
    /// `max_new_tokens` or the model's context length was reached.
    Length,
}

/// One completion of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The token ids that the policy produced, the stop token included. Never re-encoded from `text`.
    pub token_ids: Vec<u32>,
    /// The decoded text, special tokens left out.
    pub text: String,
    /// log π(y|x) in nats, the sum over response tokens, from the raw (untempered) logits.
    pub logprob: f64,
    /// The reason why it ended.
    pub finish_reason: FinishReason,
}

impl Completion {
    /// log π(y|x) per response token, in nats; 0 for an empty completion.
    #[must_use]
    pub fn logprob_mean(&self) -> f64 {
        if self.token_ids.is_empty() { 0.0 } else { self.logprob / self.token_ids.len() as f64 }
    }

    /// The log-probability of this kind, in nats or nats per token.
    #[must_use]
    pub fn logprob_as(&self, kind: LogprobKind) -> f64 {
        match kind {
            LogprobKind::Sum => self.logprob,
            LogprobKind::Mean => self.logprob_mean(),
        }
    }
}

/// Returns the seed of one completion. It depends only on the identity of the completion, so batches and
/// restarts do not change the completion. `key` is [`Plan::sampling_key`](crate::plan::Plan::sampling_key),
/// or another name where there is no experiment.
#[must_use]
pub fn sample_seed(key: &str, seed: u64, round: u32, prompt: &PromptId, sample: u32) -> [u8; 32] {
    let mut name = Vec::with_capacity(64);
    for field in [key.as_bytes(), prompt.as_str().as_bytes()] {
        name.extend_from_slice(&(field.len() as u64).to_le_bytes());
        name.extend_from_slice(field);
    }
    name.extend_from_slice(&seed.to_le_bytes());
    name.extend_from_slice(&round.to_le_bytes());
    name.extend_from_slice(&sample.to_le_bytes());
    let first = Uuid::new_v5(&SEED_NAMESPACE, &name);
    let second = Uuid::new_v5(&first, &name);
    let mut out = [0; 32];
    out[..16].copy_from_slice(first.as_bytes());
    out[16..].copy_from_slice(second.as_bytes());
    out
}

const SEED_NAMESPACE: Uuid = Uuid::from_u128(0x5d1d_7f0e_6c1b_4a53_9a5f_64c1_5577_e9a1);
