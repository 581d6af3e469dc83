//! The loaded policy of an experiment.

use std::sync::Arc;

use dissent_domain::generation::{Completion, SamplingParams};
use dissent_domain::prompt::Prompt;
use dissent_models::ModelError;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::generation::{GenerationJob, GenerationProgress, Generator, SampledTokens};
use dissent_models::runtime::CancelFlag;
use dissent_models::template::PromptTemplate;

use super::token_meter::TokenMeter;
use super::versions::{Base, Versions};
use crate::error::StepError;

/// A loaded policy with its prompt template.
pub struct Policy {
    pub(crate) base: Base,
    pub(crate) generator: Generator,
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
        let (tokenizer, fingerprint) = (base.tokenizer(), base.fingerprint());
        Ok(Self { base, generator, tokenizer, template, fingerprint, batch_prompts })
    }

    /// Switches to the current version.
    pub(crate) fn follow(&mut self, versions: &Versions) -> Result<(), StepError> {
        let version = versions.policy()?;
        if version.fingerprint != self.fingerprint {
            let adapter = versions.adapter(&self.base, &version)?;
            self.generator = self.base.generator(adapter.as_deref()).map_err(StepError::fatal)?;
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

    /// Samples completions, and counts their tokens.
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
        self.generator.generate(jobs, sampling, cancel, &mut progress)
    }

    pub(crate) fn completion(&self, tokens: SampledTokens) -> Result<Completion, ModelError> {
        let text = tokens.text(&self.tokenizer)?;
        let SampledTokens { token_ids, logprob, finish_reason, .. } = tokens;
        Ok(Completion { token_ids, text, logprob, finish_reason })
    }
}
