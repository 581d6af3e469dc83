//! The generation step: `PromptAdmitted` → `CompletionsSampled`.
//!
//! By far the slowest step, so it samples several prompts at once. A completion depends only on its seed
//! (sampling key, seed, round, prompt, sample), never on the other prompts of its batch or on the attempt.

use dissent_domain::event::{CompletionsSampled, PromptAdmitted, StepName};
use dissent_domain::generation::{SamplingParams, sample_seed};
use dissent_domain::plan::Plan;
use dissent_models::ModelError;
use dissent_models::generation::{GenerationJob, SampledTokens};
use dissent_models::runtime::CancelFlag;

use crate::error::{StepError, StepFault};
use crate::live_models::policy::Policy;
use crate::live_models::run_failure::RunFailures;
use crate::live_models::shared::{Shared, lock};
use crate::live_models::token_meter::TokenMeter;
use crate::live_models::versions::Versions;
use crate::runner::step::{Consequence, Received, Step};

/// Samples completions of prompts.
pub(crate) struct GenerationStep {
    policy: Shared<Policy>,
    batch_prompts: usize,
    versions: Versions,
    sampling_key: String,
    seed: u64,
    sampling: SamplingParams,
    cancel: CancelFlag,
    meter: TokenMeter,
    failures: RunFailures,
}

/// Samples the completions of a batch of jobs: one list of completions for each job, in order.
trait Sample {
    fn sample(&mut self, jobs: &[GenerationJob]) -> Result<Vec<Vec<SampledTokens>>, ModelError>;
}

/// The policy, for one batch.
struct PolicySampler<'a> {
    policy: &'a mut Policy,
    sampling: &'a SamplingParams,
    cancel: &'a CancelFlag,
    meter: &'a TokenMeter,
}

impl Sample for PolicySampler<'_> {
    fn sample(&mut self, jobs: &[GenerationJob]) -> Result<Vec<Vec<SampledTokens>>, ModelError> {
        self.policy.generate(jobs, self.sampling, self.cancel, self.meter)
    }
}

/// Returns one outcome for each job. If a batch fails, its jobs are sampled one by one: one prompt must not
/// fail the others.
fn sample_each(
    sampler: &mut impl Sample,
    jobs: &[GenerationJob],
    failures: &mut RunFailures,
) -> Vec<Result<Vec<SampledTokens>, StepError>> {
    let outcomes = match sampler.sample(jobs) {
        Ok(sampled) => sampled.into_iter().map(Ok).collect(),
        Err(ModelError::Cancelled) => jobs.iter().map(|_| Err(ModelError::Cancelled)).collect(),
        Err(_) => jobs
            .iter()
            .map(|job| Ok(sampler.sample(std::slice::from_ref(job))?.pop().unwrap_or_default()))
            .collect(),
    };
    failures.classify(outcomes)
}

impl GenerationStep {
    pub(crate) fn new(
        policy: Shared<Policy>,
        versions: Versions,
        plan: &Plan,
        cancel: CancelFlag,
        meter: TokenMeter,
    ) -> Self {
        let batch_prompts = lock(&policy).batch_prompts;
        let (sampling_key, seed, sampling) =
            (plan.sampling_key().to_owned(), plan.seed, plan.sampling.clone());
        let failures = RunFailures::default();
        Self { policy, batch_prompts, versions, sampling_key, seed, sampling, cancel, meter, failures }
    }

    fn job(&self, policy: &Policy, admitted: &PromptAdmitted) -> Result<GenerationJob, StepError> {
        let (key, prompt) = (&self.sampling_key, &admitted.prompt);
        policy.job(prompt, self.sampling.samples, |sample| {
            sample_seed(key, self.seed, admitted.round, &prompt.prompt_id, sample)
        })
    }

    fn sample(
        &mut self,
        batch: &[Received<PromptAdmitted>],
    ) -> Result<Vec<Result<Consequence, StepError>>, StepError> {
        let shared = self.policy.clone();
        let policy = &mut *lock(&shared);
        policy.follow(&self.versions)?;
        let prepared: Vec<Result<GenerationJob, StepError>> =
            batch.iter().map(|received| self.job(policy, &received.event)).collect();
        let jobs: Vec<GenerationJob> = prepared.iter().flatten().cloned().collect();
        let Self { sampling, cancel, meter, failures, .. } = self;
        let mut sampler = PolicySampler { policy, sampling, cancel, meter };
        let mut sampled = sample_each(&mut sampler, &jobs, failures).into_iter();
        let policy = &*sampler.policy;
        let outcome =
            |(received, prepared): (&Received<PromptAdmitted>, Result<GenerationJob, StepError>)| {
                let job = prepared?;
                let tokens = sampled.next().ok_or_else(|| StepError::fatal(StepFault::NoCompletions))?;
                consequence(policy, received, job, tokens?)
            };
        Ok(batch.iter().zip(prepared).map(outcome).collect())
    }
}

fn consequence(
    policy: &Policy,
    received: &Received<PromptAdmitted>,
    job: GenerationJob,
    tokens: Vec<SampledTokens>,
) -> Result<Consequence, StepError> {
    let completions = tokens.into_iter().map(|tokens| policy.completion(tokens)).collect::<Result<_, _>>();
    let event = CompletionsSampled {
        round: received.event.round,
        prompt: received.event.prompt.clone(),
        policy: policy.fingerprint.clone(),
        prompt_token_ids: job.prompt_ids,
        completions: completions.map_err(StepError::set_aside::<ModelError>)?,
    };
    Ok(received.leads_to([event.into()]))
}

impl Step for GenerationStep {
    const NAME: StepName = StepName::Generation;
    type Input = PromptAdmitted;

    fn batch(&self) -> usize {
        self.batch_prompts
    }

    fn handle(&mut self, received: &Received<PromptAdmitted>) -> Result<Consequence, StepError> {
        let missing = || Err(StepError::fatal(StepFault::NoCompletions));
        self.handle_batch(std::slice::from_ref(received)).pop().unwrap_or_else(missing)
    }

    fn handle_batch(&mut self, batch: &[Received<PromptAdmitted>]) -> Vec<Result<Consequence, StepError>> {
        self.sample(batch).unwrap_or_else(|error| vec![Err(error); batch.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every batch that holds the prompt with this token, and records the sizes of the batches.
    struct Failing {
        token: u32,
        batches: Vec<usize>,
    }

    impl Sample for Failing {
        fn sample(&mut self, jobs: &[GenerationJob]) -> Result<Vec<Vec<SampledTokens>>, ModelError> {
            self.batches.push(jobs.len());
            if jobs.iter().any(|job| job.prompt_ids.contains(&self.token)) {
                return Err(ModelError::Runtime("no memory".to_owned()));
            }
            Ok(jobs.iter().map(|_| Vec::new()).collect())
        }
    }

    fn jobs() -> Vec<GenerationJob> {
        (0..3).map(|token| GenerationJob { prompt_ids: vec![token], seeds: Vec::new() }).collect()
    }

    #[test]
    fn the_prompts_of_a_failing_batch_are_sampled_one_by_one() {
        let mut sampler = Failing { token: 1, batches: Vec::new() };
        let outcomes = sample_each(&mut sampler, &jobs(), &mut RunFailures::default());
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
        assert!(
            matches!(outcomes[1], Err(StepError::Retry(_))),
            "another prompt worked: this prompt causes the failure"
        );
        assert_eq!(sampler.batches, [3, 1, 1, 1]);
    }

    #[test]
    fn a_batch_that_works_is_sampled_once() {
        let mut sampler = Failing { token: 9, batches: Vec::new() };
        let outcomes = sample_each(&mut sampler, &jobs(), &mut RunFailures::default());
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!(sampler.batches, [3]);
    }

    #[test]
    fn a_cancelled_batch_is_not_retried() {
        struct Cancelled(usize);
        impl Sample for Cancelled {
            fn sample(&mut self, _: &[GenerationJob]) -> Result<Vec<Vec<SampledTokens>>, ModelError> {
                self.0 += 1;
                Err(ModelError::Cancelled)
            }
        }
        let mut sampler = Cancelled(0);
        let outcomes = sample_each(&mut sampler, &jobs(), &mut RunFailures::default());
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(StepError::Cancelled))));
        assert_eq!((outcomes.len(), sampler.0), (3, 1));
    }
}
