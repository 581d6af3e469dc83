//! The evaluation step: `EvaluationRequested` → `PolicyEvaluated`, on held-out prompts.
//!
//! Every evaluation of an experiment samples with the same seeds, which no round uses. So two evaluations
//! differ only in their models.

mod figures;
mod samples;

use std::collections::HashMap;
use std::sync::Arc;

use dissent_domain::event::{EvaluationRequested, FiguresByPrompt, PolicyEvaluated, StepName};
use dissent_domain::experiment::Experiment;
use dissent_domain::generation::{Completion, SamplingParams, sample_seed};
use dissent_domain::id::PromptId;
use dissent_domain::plan::Plan;
use dissent_domain::prompt::Prompt;
use dissent_models::ModelError;
use dissent_models::generation::GenerationJob;
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::ScoreItem;

use crate::error::{StepError, StepFault};
use crate::live_models::gold::SharedGold;
use crate::live_models::policy::Policy;
use crate::live_models::proxy::Proxy;
use crate::live_models::run_failure::RunFailures;
use crate::live_models::shared::{Shared, lock};
use crate::live_models::token_meter::TokenMeter;
use crate::live_models::versions::Versions;
use crate::runner::step::{Consequence, Received, Step};
use figures::{Measured, Subject};

/// Replaces the round in the seeds of evaluations: no round has this number.
const EVALUATION_ROUND: u32 = u32::MAX;

/// Evaluates policies.
pub(crate) struct EvaluationStep {
    pub(crate) plan: Arc<Plan>,
    pub(crate) versions: Versions,
    pub(crate) policy: Shared<Policy>,
    pub(crate) proxy: Shared<Proxy>,
    pub(crate) gold: Option<SharedGold>,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) samples: u32,
    pub(crate) cancel: CancelFlag,
    pub(crate) meter: TokenMeter,
    pub(crate) failures: RunFailures,
}

/// A held-out prompt with its completions.
struct SampledPrompt {
    prompt: Prompt,
    prompt_ids: Vec<u32>,
    completions: Vec<Completion>,
}

impl EvaluationStep {
    fn evaluate(&mut self, requested: &EvaluationRequested) -> Result<PolicyEvaluated, StepError> {
        let (policy, reward_model) = (self.versions.policy()?, self.versions.reward_model()?);
        let sampled = self.sample()?;
        let reference = self.reference(&policy.fingerprint, &sampled)?;
        let refined = self.refined(&sampled)?;
        let proxy = self.first_proxy(&reward_model.fingerprint, &sampled, &refined)?;
        let gold = self.gold(&sampled)?;
        let left_out = self.prompts.len();
        let measured: Vec<Measured> = sampled
            .into_iter()
            .enumerate()
            .filter_map(|(index, sampled)| {
                Some(Measured {
                    prompt_id: sampled.prompt.prompt_id,
                    completions: sampled.completions,
                    proxy: proxy[index].clone()?,
                    refined: refined[index].clone()?,
                    gold: match &gold {
                        Some(gold) => Some(gold[index].clone()?),
                        None => None,
                    },
                    reference: reference.as_ref().map(|reference| reference[index].clone()),
                })
            })
            .collect();
        if measured.len() < left_out {
            let left_out = left_out - measured.len();
            tracing::warn!(left_out, "skipping held-out prompts that do not fit a model");
        }
        if measured.is_empty() {
            return Err(StepError::fatal(StepFault::NothingToEvaluate));
        }
        let subject = Subject {
            evaluation: requested.evaluation,
            policy: policy.fingerprint,
            reward_model: reward_model.fingerprint,
            logprob: self.plan.conflict.logprob,
        };
        let mut evaluated = figures::evaluated(subject, &measured);
        if !self.plan.records_figures_by_prompt() {
            return Ok(evaluated);
        }
        let first_refined_agreed = self.first_refined_agreed()?;
        let by_prompt = FiguresByPrompt { first_refined_agreed, ..figures::by_prompt(&measured) };
        evaluated.by_prompt = Some(Box::new(by_prompt));
        let lines = samples::write(&measured).map_err(StepError::fatal)?;
        let artifact = self.versions.artifacts.put_bytes(&lines).map_err(StepError::fatal)?;
        evaluated.samples = Some(artifact.to_string());
        Ok(evaluated)
    }

    /// Counts, for each prompt of evaluation 0, the pairs of its completions that the current reward model
    /// orders as the gold reward does. Empty for evaluation 0, without gold rewards, and where evaluation 0
    /// kept no completions.
    fn first_refined_agreed(&mut self) -> Result<Vec<u32>, StepError> {
        let first = |experiment: &Experiment| experiment.evaluations().first()?.samples.clone();
        let Some(artifact) = self.versions.states.read(&self.versions.experiment, first).flatten() else {
            return Ok(Vec::new());
        };
        let bytes = self.versions.read(&artifact, samples::SAMPLES_BYTES_MAX)?;
        let first = samples::read(&bytes).map_err(StepError::fatal)?;
        let prompts: HashMap<&PromptId, &Prompt> =
            self.prompts.iter().map(|prompt| (&prompt.prompt_id, prompt)).collect();
        let shared = self.proxy.clone();
        let proxy = &mut *lock(&shared);
        proxy.follow(&self.versions)?;
        let mut agreed = Vec::with_capacity(first.len());
        for of_prompt in &first {
            let (Some(gold), Some(prompt)) = (of_prompt.gold(), prompts.get(&of_prompt.prompt_id)) else {
                return Ok(Vec::new());
            };
            let texts = of_prompt.completions.iter().map(|sample| sample.text.as_str());
            let scored = or_left_out(proxy.score(prompt, texts, &mut self.failures, &self.cancel))?;
            // The first proxy scored these completions, and every version reads the same tokens.
            let rewards = scored.ok_or_else(|| StepError::fatal(StepFault::NothingToEvaluate))?;
            agreed.push(figures::pair_counts(&rewards, &gold).agreed);
        }
        Ok(agreed)
    }

    /// Samples the held-out prompts with the current policy; prompts that do not fit are left out.
    fn sample(&mut self) -> Result<Vec<SampledPrompt>, StepError> {
        let sampling = SamplingParams { samples: self.samples, ..self.plan.sampling.clone() };
        let together = lock(&self.policy).batch_prompts.max(1);
        let mut sampled = Vec::with_capacity(self.prompts.len());
        for prompts in self.prompts.chunks(together) {
            // Locked for each batch: the first evaluation shares the policy with the first round.
            let policy = &mut *lock(&self.policy);
            policy.follow(&self.versions)?;
            let seed = |prompt: &Prompt, sample| {
                let (key, prompt_id) = (self.plan.sampling_key(), &prompt.prompt_id);
                sample_seed(key, self.plan.seed, EVALUATION_ROUND, prompt_id, sample)
            };
            let jobs: Vec<(&Prompt, GenerationJob)> = prompts
                .iter()
                .filter_map(|prompt| {
                    Some((prompt, policy.job(prompt, self.samples, |sample| seed(prompt, sample)).ok()?))
                })
                .collect();
            let all: Vec<GenerationJob> = jobs.iter().map(|(_, job)| job.clone()).collect();
            let generated = policy.generate(&all, &sampling, &self.cancel, &self.meter);
            for ((prompt, job), tokens) in jobs.into_iter().zip(self.failures.classify_one(generated)?) {
                let completions = tokens.into_iter().map(|tokens| policy.completion(tokens));
                sampled.push(SampledPrompt {
                    prompt: prompt.clone(),
                    prompt_ids: job.prompt_ids,
                    completions: completions.collect::<Result<_, ModelError>>().map_err(StepError::fatal)?,
                });
            }
        }
        Ok(sampled)
    }

    /// log π_ref of each completion by the policy that the experiment began with; `None` if that is the
    /// current policy.
    fn reference(
        &mut self,
        current: &str,
        sampled: &[SampledPrompt],
    ) -> Result<Option<Vec<Vec<f64>>>, StepError> {
        if current == self.plan.policy.fingerprint {
            return Ok(None);
        }
        let base = lock(&self.policy).base.clone();
        let reference = base.scorer(base.adapter.clone());
        let session = reference.session().map_err(StepError::fatal)?;
        let mut scorer = lock(&session);
        let mut logprobs = Vec::with_capacity(sampled.len());
        for SampledPrompt { prompt_ids, completions, .. } in sampled {
            let items: Vec<ScoreItem> = completions
                .iter()
                .map(|completion| ScoreItem {
                    prompt_ids: prompt_ids.clone(),
                    completion_ids: completion.token_ids.clone(),
                })
                .collect();
            let scores = self.failures.classify_one(scorer.score(&items, &self.cancel, &mut |_| ()))?;
            let sum = |tokens: &Vec<f32>| tokens.iter().map(|&logprob| f64::from(logprob)).sum();
            logprobs.push(scores.iter().map(sum).collect());
        }
        Ok(Some(logprobs))
    }

    /// Rewards by the current reward model; `None` for prompts with a completion that it can never score.
    fn refined(&mut self, sampled: &[SampledPrompt]) -> Result<Vec<Option<Vec<f64>>>, StepError> {
        let shared = self.proxy.clone();
        sampled
            .iter()
            .map(|sampled| {
                let proxy = &mut *lock(&shared);
                proxy.follow(&self.versions)?;
                self.rewards(proxy, sampled)
            })
            .collect()
    }

    /// Rewards by the proxy that the experiment began with.
    fn first_proxy(
        &mut self,
        current: &str,
        sampled: &[SampledPrompt],
        refined: &[Option<Vec<f64>>],
    ) -> Result<Vec<Option<Vec<f64>>>, StepError> {
        if current == self.plan.reward.fingerprint {
            return Ok(refined.to_vec());
        }
        let proxy = {
            let current = lock(&self.proxy);
            Proxy::new(current.base.clone(), current.template.clone(), current.kind)
        };
        sampled.iter().map(|sampled| self.rewards(&proxy, sampled)).collect()
    }

    fn rewards(&mut self, proxy: &Proxy, sampled: &SampledPrompt) -> Result<Option<Vec<f64>>, StepError> {
        let texts = sampled.completions.iter().map(|completion| completion.text.as_str());
        or_left_out(proxy.score(&sampled.prompt, texts, &mut self.failures, &self.cancel))
    }

    fn gold(&self, sampled: &[SampledPrompt]) -> Result<Option<Vec<Option<Vec<f64>>>>, StepError> {
        let Some(gold) = &self.gold else { return Ok(None) };
        let score = |sampled: &SampledPrompt| {
            let texts: Vec<String> = sampled.completions.iter().map(|c| c.text.clone()).collect();
            or_left_out(lock(gold).score(&sampled.prompt, &texts))
        };
        sampled.iter().map(score).collect::<Result<_, _>>().map(Some)
    }
}

/// Completions that can never be scored are left out; other errors stay errors.
fn or_left_out(scores: Result<Vec<f64>, StepError>) -> Result<Option<Vec<f64>>, StepError> {
    match scores {
        Ok(scores) => Ok(Some(scores)),
        Err(StepError::SetAside(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Step for EvaluationStep {
    const NAME: StepName = StepName::Evaluation;
    type Input = EvaluationRequested;

    fn handle(&mut self, received: &Received<EvaluationRequested>) -> Result<Consequence, StepError> {
        self.evaluate(&received.event).map(|evaluated| received.leads_to([evaluated.into()]))
    }
}
