//! The generation step: `PromptAdmitted` → `CompletionsSampled`.
//!
//! The slowest step by far, so it takes several prompts at once. A completion depends on its seed alone —
//! experiment, round, prompt, sample — never on which prompts share its batch or on how often it is repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dissent_domain::event::{CompletionsSampled, Event, EventType, PromptAdmitted, Step};
use dissent_domain::experiment::Plan;
use dissent_domain::generation::{Completion, SamplingParams, sample_seed};
use dissent_domain::id::ExperimentId;
use dissent_models::ModelError;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::generation::{GenerationJob, GenerationProgress, Generator, SampledTokens};
use dissent_models::runtime::CancelFlag;
use dissent_models::template::PromptTemplate;

use crate::model_run::Judge;
use crate::step::{Consequence, Perform, Received, StepError, follows};

/// A loaded policy, and how prompts are put to it.
pub struct Policy {
    /// Samples completions.
    pub generator: Generator,
    /// Its tokenizer.
    pub tokenizer: Arc<TextTokenizer>,
    /// How a prompt becomes its input.
    pub template: PromptTemplate,
    /// Fingerprint of checkpoint and adapter.
    pub fingerprint: String,
    /// Prompts worked on at once.
    pub batch_prompts: usize,
}

/// Response tokens sampled since the process started, for showing how fast it goes.
#[derive(Debug, Clone, Default)]
pub struct TokenMeter(Arc<AtomicU64>);

impl TokenMeter {
    /// Tokens so far.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, tokens: u64) {
        self.0.store(tokens, Ordering::Relaxed);
    }
}

/// Samples completions of prompts.
pub(crate) struct Generation {
    policy: Policy,
    experiment: ExperimentId,
    seed: u64,
    sampling: SamplingParams,
    cancel: CancelFlag,
    meter: TokenMeter,
    judge: Judge,
}

impl Generation {
    pub(crate) fn new(policy: Policy, plan: &Plan, cancel: CancelFlag, meter: TokenMeter) -> Self {
        Self {
            policy,
            experiment: plan.experiment.clone(),
            seed: plan.seed,
            sampling: plan.sampling.clone(),
            cancel,
            meter,
            judge: Judge::default(),
        }
    }

    fn job(&self, admitted: &PromptAdmitted) -> Result<GenerationJob, StepError> {
        let Policy { tokenizer, template, generator, .. } = &self.policy;
        let prompt = &admitted.prompt;
        let prompt_ids = template
            .encode_prompt(tokenizer, &prompt.text)
            .map_err(|error| StepError::SetAside(error.to_string()))?;
        generator.check_prompt(&prompt_ids).map_err(|error| StepError::SetAside(error.to_string()))?;
        let seeds = (0..self.sampling.samples)
            .map(|sample| sample_seed(&self.experiment, self.seed, admitted.round, &prompt.prompt_id, sample))
            .collect();
        Ok(GenerationJob { prompt_ids, seeds })
    }

    /// One outcome for each job. What fails together is tried apart: one prompt must not take the others with it.
    fn sample(&mut self, jobs: &[GenerationJob]) -> Vec<Result<Vec<SampledTokens>, StepError>> {
        let outcomes = match self.generate(jobs) {
            Ok(sampled) => sampled.into_iter().map(Ok).collect(),
            Err(ModelError::Cancelled) => jobs.iter().map(|_| Err(ModelError::Cancelled)).collect(),
            Err(_) => jobs
                .iter()
                .map(|job| Ok(self.generate(std::slice::from_ref(job))?.pop().unwrap_or_default()))
                .collect(),
        };
        self.judge.judge(outcomes)
    }

    fn generate(&mut self, jobs: &[GenerationJob]) -> Result<Vec<Vec<SampledTokens>>, ModelError> {
        let before = self.meter.tokens();
        let meter = self.meter.clone();
        let mut progress = |done: GenerationProgress| meter.set(before + done.tokens);
        self.policy.generator.generate(jobs, &self.sampling, &self.cancel, &mut progress)
    }

    fn completions(&self, sampled: Vec<SampledTokens>) -> Result<Vec<Completion>, StepError> {
        sampled
            .into_iter()
            .map(|tokens| {
                let text = self
                    .policy
                    .tokenizer
                    .decode(&tokens.token_ids, true)
                    .map_err(|error| StepError::SetAside(error.to_string()))?;
                Ok(Completion {
                    text,
                    token_ids: tokens.token_ids,
                    logprob: tokens.logprob,
                    finish_reason: tokens.finish_reason,
                })
            })
            .collect()
    }

    fn sampled(
        &self,
        received: &Received,
        admitted: &PromptAdmitted,
        job: GenerationJob,
        tokens: Vec<SampledTokens>,
    ) -> Result<Consequence, StepError> {
        let event = CompletionsSampled {
            round: admitted.round,
            prompt: admitted.prompt.clone(),
            policy: self.policy.fingerprint.clone(),
            prompt_token_ids: job.prompt_ids,
            completions: self.completions(tokens)?,
        };
        Ok(follows(received, [event.into()]))
    }
}

impl Perform for Generation {
    const STEP: Step = Step::Generation;
    const CONSUMES: &'static [EventType] = &[EventType::PromptAdmitted];

    fn batch(&self) -> usize {
        self.policy.batch_prompts
    }

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        let prepared: Vec<Result<(&PromptAdmitted, GenerationJob), StepError>> =
            batch.iter().filter_map(admitted).map(|e| self.job(e).map(|job| (e, job))).collect();
        let jobs: Vec<GenerationJob> = prepared.iter().flatten().map(|(_, job)| job.clone()).collect();
        let mut sampled = self.sample(&jobs).into_iter();
        batch
            .iter()
            .zip(prepared)
            .map(|(received, prepared)| {
                let (event, job) = prepared?;
                let tokens = sampled
                    .next()
                    .ok_or_else(|| StepError::Fatal("a prompt got no completions".to_owned()))?;
                self.sampled(received, event, job, tokens?)
            })
            .collect()
    }
}

fn admitted(received: &Received) -> Option<&PromptAdmitted> {
    if let Event::PromptAdmitted(e) = &received.event { Some(e) } else { None }
}
