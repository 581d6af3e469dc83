//! The loaded policy of an experiment.

use std::sync::Arc;

use dissent_domain::generation::{Completion, SamplingParams};
use dissent_domain::prompt::Prompt;
use dissent_models::ModelError;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::generation::{GenerationJob, GenerationProgress, Generator, SampledTokens};
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::{PolicyScorer, ScoreItem};
use dissent_models::template::PromptTemplate;

use super::token_meter::TokenMeter;
use super::versions::{Base, Versions};
use crate::error::StepError;

/// A loaded policy with its prompt template.
pub struct Policy {
    pub(crate) base: Base,
    pub(crate) generator: Generator,
    /// Computes the log-probabilities of completions that other weights than f32 sampled.
    rescorer: Option<PolicyScorer>,
    pub(crate) tokenizer: Arc<TextTokenizer>,
    pub(crate) template: PromptTemplate,
    /// Fingerprint of checkpoint and adapter.
    pub(crate) fingerprint: String,
    /// Prompts per batch.
    pub(crate) batch_prompts: usize,
}

impl Policy {
    /// Opens the policy that the experiment began with; `batch_prompts` are sampled at once.
    ///
    /// # Errors
    /// As [`Generator::open`].
    pub fn open(base: Base, template: PromptTemplate, batch_prompts: usize) -> Result<Self, ModelError> {
        let generator = base.generator(base.adapter.as_deref())?;
        let rescorer = rescorer(&base, base.adapter.as_deref())?;
        let (tokenizer, fingerprint) = (base.tokenizer(), base.fingerprint());
        Ok(Self { base, generator, rescorer, tokenizer, template, fingerprint, batch_prompts })
    }

    /// Switches to the current version.
    pub(crate) fn follow(&mut self, versions: &Versions) -> Result<(), StepError> {
        let version = versions.policy()?;
        if version.fingerprint != self.fingerprint {
            let adapter = versions.adapter(&self.base, &version)?;
            self.generator = self.base.generator(adapter.as_deref()).map_err(StepError::fatal)?;
            self.rescorer = rescorer(&self.base, adapter.as_deref()).map_err(StepError::fatal)?;
            self.fingerprint = version.fingerprint;
        }
        Ok(())
    }

    /// The generation job of a prompt; an error if the prompt does not fit the policy.
    pub(crate) fn job(
        &self,
        prompt: &Prompt,
        samples: u32,
        seed: impl Fn(u32) -> [u8; 32],
    ) -> Result<GenerationJob, StepError> {
        let prompt_ids = self
            .template
            .encode_dialogue(&self.tokenizer, &prompt.dialogue())
            .map_err(StepError::set_aside)?;
        self.generator.check_prompt(&prompt_ids).map_err(StepError::set_aside)?;
        Ok(GenerationJob { prompt_ids, seeds: (0..samples).map(seed).collect() })
    }

    /// Samples completions, and counts their tokens. Their log-probabilities are always those of weights f32:
    /// conflict compares policies, not roundings.
    pub(crate) fn generate(
        &mut self,
        jobs: &[GenerationJob],
        sampling: &SamplingParams,
        cancel: &CancelFlag,
        meter: &TokenMeter,
    ) -> Result<Vec<Vec<SampledTokens>>, ModelError> {
        let mut counted = 0;
        let mut progress = |done: GenerationProgress| {
            meter.add(done.tokens.saturating_sub(counted));
            counted = done.tokens;
        };
        let mut sampled = self.generator.generate(jobs, sampling, cancel, &mut progress)?;
        if let Some(rescorer) = &mut self.rescorer {
            rescore(rescorer, jobs, &mut sampled, cancel)?;
        }
        Ok(sampled)
    }

    pub(crate) fn completion(&self, tokens: SampledTokens) -> Result<Completion, ModelError> {
        let text = tokens.text(&self.tokenizer)?;
        let SampledTokens { token_ids, logprob, finish_reason, .. } = tokens;
        Ok(Completion { token_ids, text, logprob, finish_reason })
    }
}

/// Returns the scorer of a policy that samples with other weights than f32.
fn rescorer(base: &Base, adapter: Option<&LoraAdapter>) -> Result<Option<PolicyScorer>, ModelError> {
    base.sampling.as_ref().map(|_| base.scorer(adapter)).transpose()
}

/// Replaces the log-probabilities of completions by those of weights f32.
fn rescore(
    scorer: &mut PolicyScorer,
    jobs: &[GenerationJob],
    sampled: &mut [Vec<SampledTokens>],
    cancel: &CancelFlag,
) -> Result<(), ModelError> {
    for (job, completions) in jobs.iter().zip(sampled) {
        let item = |completion: &SampledTokens| ScoreItem {
            prompt_ids: job.prompt_ids.clone(),
            completion_ids: completion.token_ids.clone(),
        };
        let items: Vec<ScoreItem> = completions.iter().map(item).collect();
        for (completion, logprobs) in completions.iter_mut().zip(scorer.score(&items, cancel, &mut |_| ())?) {
            completion.logprob = logprobs.into_iter().map(f64::from).sum();
        }
    }
    Ok(())
}
