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

use super::cache::ModelHandle;
use super::shared::lock;
use super::token_meter::TokenMeter;
use super::versions::{Base, Versions};
use crate::error::StepError;

/// A loaded policy with its prompt template.
pub struct Policy {
    pub(crate) base: Base,
    generator: ModelHandle<Generator>,
    /// Computes the log-probabilities of completions that other weights than f32 sampled.
    rescorer: Option<ModelHandle<PolicyScorer>>,
    pub(crate) tokenizer: Arc<TextTokenizer>,
    pub(crate) template: PromptTemplate,
    /// Fingerprint of checkpoint and adapter.
    pub(crate) fingerprint: String,
    /// Prompts per batch.
    pub(crate) batch_prompts: usize,
}

impl Policy {
    /// The policy that the experiment began with; `batch_prompts` are sampled at once. Its model is loaded at
    /// the first use.
    #[must_use]
    pub fn new(base: Base, template: PromptTemplate, batch_prompts: usize) -> Self {
        let (tokenizer, fingerprint) = (base.tokenizer(), base.fingerprint());
        let generator = base.generator(base.adapter.clone());
        let rescorer = rescorer(&base, base.adapter.clone());
        Self { base, generator, rescorer, tokenizer, template, fingerprint, batch_prompts }
    }

    /// Loads the model, to find its errors before the first use.
    ///
    /// # Errors
    /// As [`Generator::open`].
    pub fn load(&self) -> Result<(), ModelError> {
        self.generator.session()?;
        self.rescorer.as_ref().map_or(Ok(()), |rescorer| rescorer.session().map(drop))
    }

    /// Switches to the current version.
    pub(crate) fn follow(&mut self, versions: &Versions) -> Result<(), StepError> {
        let version = versions.policy()?;
        if version.fingerprint != self.fingerprint {
            let adapter = versions.adapter(&self.base, &version)?;
            self.generator = self.base.generator(adapter.clone());
            self.rescorer = rescorer(&self.base, adapter);
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
        let generator = self.generator.session().map_err(StepError::fatal)?;
        lock(&generator).check_prompt(&prompt_ids).map_err(StepError::set_aside)?;
        Ok(GenerationJob { prompt_ids, seeds: (0..samples).map(seed).collect() })
    }

    /// Samples completions, and counts their tokens. Their log-probabilities are always those of weights f32:
    /// conflict compares policies, not roundings.
    pub(crate) fn generate(
        &self,
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
        let generator = self.generator.session()?;
        let mut sampled = lock(&generator).generate(jobs, sampling, cancel, &mut progress)?;
        if let Some(rescorer) = &self.rescorer {
            let rescorer = rescorer.session()?;
            rescore(&mut lock(&rescorer), jobs, &mut sampled, cancel)?;
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
fn rescorer(base: &Base, adapter: Option<Arc<LoraAdapter>>) -> Option<ModelHandle<PolicyScorer>> {
    base.sampling.as_ref().map(|_| base.scorer(adapter))
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
