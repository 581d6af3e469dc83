//! The completions of an evaluation, kept as an artifact: JSON Lines, one prompt a line.

use dissent_domain::generation::FinishReason;
use dissent_domain::id::PromptId;
use serde::{Deserialize, Serialize};

use super::figures::Measured;

/// Largest artifact with completions of an evaluation, in bytes: it is held in memory.
pub(super) const SAMPLES_BYTES_MAX: u64 = 4 << 30;

/// A held-out prompt with its completions, in the order of their samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PromptSamples {
    pub(super) prompt_id: PromptId,
    pub(super) completions: Vec<Sample>,
}

/// A completion with its figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) text: String,
    /// log π(y|x) in nats.
    logprob: f64,
    /// Length in tokens.
    tokens: usize,
    finish_reason: FinishReason,
    /// Gold reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gold_reward: Option<f64>,
    /// Reward by the initial proxy.
    proxy_reward: f64,
    /// Reward by the reward model of the evaluation.
    refined_reward: f64,
}

impl PromptSamples {
    fn of(measured: &Measured) -> Self {
        let completions = measured.completions.iter().enumerate().map(|(index, completion)| Sample {
            text: completion.text.clone(),
            logprob: completion.logprob,
            tokens: completion.token_ids.len(),
            finish_reason: completion.finish_reason,
            gold_reward: measured.gold.as_ref().map(|gold| gold[index]),
            proxy_reward: measured.proxy[index],
            refined_reward: measured.refined[index],
        });
        Self { prompt_id: measured.prompt_id.clone(), completions: completions.collect() }
    }

    /// The gold rewards; `None` if one is missing.
    pub(super) fn gold(&self) -> Option<Vec<f64>> {
        self.completions.iter().map(|sample| sample.gold_reward).collect()
    }
}

/// The lines of an artifact.
pub(super) fn write(measured: &[Measured]) -> serde_json::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for of_prompt in measured {
        serde_json::to_writer(&mut lines, &PromptSamples::of(of_prompt))?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Reads the lines of an artifact.
pub(super) fn read(bytes: &[u8]) -> serde_json::Result<Vec<PromptSamples>> {
    serde_json::Deserializer::from_slice(bytes).into_iter().collect()
}
