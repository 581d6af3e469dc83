//! The generation step: `PromptAdmitted` → `CompletionsSampled`.
//!
//! The slowest step by far, so it takes several prompts at once. A completion depends on its seed alone —
//! experiment, round, prompt, sample — never on which prompts share its batch or on how often it is repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dissent_domain::event::{CompletionsSampled, Event, EventType, PromptAdmitted, StepName};
use dissent_domain::generation::{Completion, SamplingParams, sample_seed};
use dissent_domain::plan::Plan;
use dissent_domain::prompt::Prompt;
use dissent_models::ModelError;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::generation::{GenerationJob, GenerationProgress, Generator, SampledTokens};
use dissent_models::runtime::CancelFlag;
use dissent_models::template::PromptTemplate;

use crate::model::{Base, Shared, Versions, fatal, lock};
use crate::model_run::Judge;
use crate::step::{Consequence, Perform, Received, StepError, follows};

/// A loaded policy, and how prompts are put to it.
pub struct Policy {
    pub(crate) base: Base,
    pub(crate) generator: Generator,
    pub(crate) tokenizer: Arc<TextTokenizer>,
    pub(crate) template: PromptTemplate,
    /// Fingerprint of checkpoint and adapter.
    pub(crate) fingerprint: String,
    /// Prompts worked on at once.
    pub(crate) batch_prompts: usize,
}

impl Policy {
    /// Starts a policy as the experiment began with it; `batch_prompts` are worked on at once.
    ///
    /// # Errors
    /// As [`Generator::open`].
    pub fn open(base: Base, template: PromptTemplate, batch_prompts: usize) -> Result<Self, ModelError> {
        let generator = base.generator(base.adapter.as_deref())?;
        let (tokenizer, fingerprint) = (base.tokenizer(), base.fingerprint());
        Ok(Self { base, generator, tokenizer, template, fingerprint, batch_prompts })
    }

    /// Becomes the version that is current.
    pub(crate) fn follow(&mut self, versions: &Versions) -> Result<(), StepError> {
        let version = versions.policy()?;
        if version.fingerprint != self.fingerprint {
            let adapter = versions.adapter(&self.base, &version)?;
            self.generator = self.base.generator(adapter.as_deref()).map_err(fatal)?;
            self.fingerprint = version.fingerprint;
        }
        Ok(())
    }

    /// What to sample for a prompt; an error if it can never be answered.
    pub(crate) fn job(
        &self,
        prompt: &Prompt,
        samples: u32,
        seed: impl Fn(u32) -> [u8; 32],
    ) -> Result<GenerationJob, StepError> {
        let set_aside = |error: ModelError| StepError::SetAside(error.to_string());
        let prompt_ids = self.template.encode_prompt(&self.tokenizer, &prompt.text).map_err(set_aside)?;
        self.generator.check_prompt(&prompt_ids).map_err(set_aside)?;
        Ok(GenerationJob { prompt_ids, seeds: (0..samples).map(seed).collect() })
    }

    /// Samples, and counts the tokens while it does.
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
        let text = self.tokenizer.decode(&tokens.token_ids, true)?;
        let SampledTokens { token_ids, logprob, finish_reason } = tokens;
        Ok(Completion { token_ids, text, logprob, finish_reason })
    }
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

    fn add(&self, tokens: u64) {
        self.0.fetch_add(tokens, Ordering::Relaxed);
    }
}

/// Samples completions of prompts.
pub(crate) struct Generation {
    policy: Shared<Policy>,
    batch_prompts: usize,
    versions: Versions,
    seed: u64,
    sampling: SamplingParams,
    cancel: CancelFlag,
    meter: TokenMeter,
    judge: Judge,
}

impl Generation {
    pub(crate) fn new(
        policy: Shared<Policy>,
        versions: Versions,
        plan: &Plan,
        cancel: CancelFlag,
        meter: TokenMeter,
    ) -> Self {
        let batch_prompts = lock(&policy).batch_prompts;
        let (seed, sampling) = (plan.seed, plan.sampling.clone());
        Self { policy, batch_prompts, versions, seed, sampling, cancel, meter, judge: Judge::default() }
    }

    fn job(&self, policy: &Policy, admitted: &PromptAdmitted) -> Result<GenerationJob, StepError> {
        let (experiment, prompt) = (&self.versions.experiment, &admitted.prompt);
        policy.job(prompt, self.sampling.samples, |sample| {
            sample_seed(experiment, self.seed, admitted.round, &prompt.prompt_id, sample)
        })
    }

    /// One outcome for each job. What fails together is tried apart: one prompt must not take the others with it.
    fn sample(
        &mut self,
        policy: &mut Policy,
        jobs: &[GenerationJob],
    ) -> Vec<Result<Vec<SampledTokens>, StepError>> {
        let mut generate =
            |jobs: &[GenerationJob]| policy.generate(jobs, &self.sampling, &self.cancel, &self.meter);
        let outcomes = match generate(jobs) {
            Ok(sampled) => sampled.into_iter().map(Ok).collect(),
            Err(ModelError::Cancelled) => jobs.iter().map(|_| Err(ModelError::Cancelled)).collect(),
            Err(_) => jobs
                .iter()
                .map(|job| Ok(generate(std::slice::from_ref(job))?.pop().unwrap_or_default()))
                .collect(),
        };
        self.judge.judge(outcomes)
    }

    fn answer(&mut self, batch: &[Received]) -> Result<Vec<Result<Consequence, StepError>>, StepError> {
        let shared = self.policy.clone();
        let policy = &mut *lock(&shared);
        policy.follow(&self.versions)?;
        let prepared: Vec<Result<(&PromptAdmitted, GenerationJob), StepError>> =
            batch.iter().filter_map(admitted).map(|e| self.job(policy, e).map(|job| (e, job))).collect();
        let jobs: Vec<GenerationJob> = prepared.iter().flatten().map(|(_, job)| job.clone()).collect();
        let mut sampled = self.sample(policy, &jobs).into_iter();
        Ok(batch
            .iter()
            .zip(prepared)
            .map(|(received, prepared)| {
                let (event, job) = prepared?;
                let tokens = sampled
                    .next()
                    .ok_or_else(|| StepError::Fatal("a prompt got no completions".to_owned()))?;
                consequence(policy, received, event, job, tokens?)
            })
            .collect())
    }
}

fn consequence(
    policy: &Policy,
    received: &Received,
    admitted: &PromptAdmitted,
    job: GenerationJob,
    tokens: Vec<SampledTokens>,
) -> Result<Consequence, StepError> {
    let completions = tokens.into_iter().map(|tokens| policy.completion(tokens)).collect::<Result<_, _>>();
    let event = CompletionsSampled {
        round: admitted.round,
        prompt: admitted.prompt.clone(),
        policy: policy.fingerprint.clone(),
        prompt_token_ids: job.prompt_ids,
        completions: completions.map_err(|error: ModelError| StepError::SetAside(error.to_string()))?,
    };
    Ok(follows(received, [event.into()]))
}

impl Perform for Generation {
    const STEP: StepName = StepName::Generation;
    const CONSUMES: &'static [EventType] = &[EventType::PromptAdmitted];

    fn batch(&self) -> usize {
        self.batch_prompts
    }

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        self.answer(batch).unwrap_or_else(|error| batch.iter().map(|_| Err(error.clone())).collect())
    }
}

fn admitted(received: &Received) -> Option<&PromptAdmitted> {
    if let Event::PromptAdmitted(e) = &received.event { Some(e) } else { None }
}
