//! The evaluation step: `EvaluationRequested` → `PolicyEvaluated`, on held-out prompts.
//!
//! Every evaluation of an experiment samples with the same seeds, which no round has: what differs between two of them is the
//! policy.

mod figures;

use std::sync::Arc;

use dissent_domain::event::{EvaluationRequested, Event, EventType, PolicyEvaluated, StepName};
use dissent_domain::generation::{Completion, SamplingParams, sample_seed};
use dissent_domain::plan::Plan;
use dissent_domain::prompt::Prompt;
use dissent_models::ModelError;
use dissent_models::generation::GenerationJob;
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::ScoreItem;

use crate::generation::{Policy, TokenMeter};
use crate::gold::SharedGold;
use crate::model::{Shared, Versions, fatal, lock};
use crate::model_run::Judge;
use crate::reward::Proxy;
use crate::step::{Consequence, Perform, Received, StepError, follows};
use figures::{Measured, Subject};

/// The number that stands for the round in the seeds of evaluations: no round has it.
const EVALUATION_ROUND: u32 = u32::MAX;

/// What evaluations are made with.
pub(crate) struct Evaluation {
    pub(crate) plan: Arc<Plan>,
    pub(crate) versions: Versions,
    pub(crate) policy: Shared<Policy>,
    pub(crate) proxy: Shared<Proxy>,
    pub(crate) gold: Option<SharedGold>,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) samples: u32,
    pub(crate) cancel: CancelFlag,
    pub(crate) meter: TokenMeter,
    pub(crate) judge: Judge,
}

/// A prompt with its completions.
struct Answered {
    prompt: Prompt,
    prompt_ids: Vec<u32>,
    completions: Vec<Completion>,
}

impl Evaluation {
    fn evaluate(&mut self, requested: &EvaluationRequested) -> Result<PolicyEvaluated, StepError> {
        let (policy, reward_model) = (self.versions.policy()?, self.versions.reward_model()?);
        let answered = self.answer()?;
        let reference = self.reference(&policy.fingerprint, &answered)?;
        let refined = self.refined(&answered)?;
        let proxy = self.first_proxy(&reward_model.fingerprint, &answered, &refined)?;
        let gold = self.gold(&answered)?;
        let left_out = self.prompts.len();
        let measured: Vec<Measured> = answered
            .into_iter()
            .enumerate()
            .filter_map(|(place, answered)| {
                Some(Measured {
                    completions: answered.completions,
                    proxy: proxy[place].clone()?,
                    refined: refined[place].clone()?,
                    gold: match &gold {
                        Some(gold) => Some(gold[place].clone()?),
                        None => None,
                    },
                    reference: reference.as_ref().map(|reference| reference[place].clone()),
                })
            })
            .collect();
        if measured.len() < left_out {
            let left_out = left_out - measured.len();
            tracing::warn!(
                left_out,
                "held-out prompts that cannot be answered or scored are left out of an evaluation"
            );
        }
        if measured.is_empty() {
            return Err(StepError::Fatal(
                "not one of the held-out prompts can be answered and scored".to_owned(),
            ));
        }
        let subject = Subject {
            evaluation: requested.evaluation,
            policy: policy.fingerprint,
            reward_model: reward_model.fingerprint,
            logprob: self.plan.conflict.logprob,
        };
        Ok(figures::evaluated(subject, &measured))
    }

    /// Samples the held-out prompts with the current policy; those that do not fit it are left out.
    fn answer(&mut self) -> Result<Vec<Answered>, StepError> {
        let sampling = SamplingParams { samples: self.samples, ..self.plan.sampling.clone() };
        let together = lock(&self.policy).batch_prompts.max(1);
        let mut answered = Vec::with_capacity(self.prompts.len());
        for prompts in self.prompts.chunks(together) {
            // Taken for each batch anew: the first evaluation shares the policy with the first round.
            let policy = &mut *lock(&self.policy);
            policy.follow(&self.versions)?;
            let seed = |prompt: &Prompt, sample| {
                let (experiment, prompt_id) = (&self.plan.experiment, &prompt.prompt_id);
                sample_seed(experiment, self.plan.seed, EVALUATION_ROUND, prompt_id, sample)
            };
            let jobs: Vec<(&Prompt, GenerationJob)> = prompts
                .iter()
                .filter_map(|prompt| {
                    Some((prompt, policy.job(prompt, self.samples, |sample| seed(prompt, sample)).ok()?))
                })
                .collect();
            let all: Vec<GenerationJob> = jobs.iter().map(|(_, job)| job.clone()).collect();
            let sampled = policy.generate(&all, &sampling, &self.cancel, &self.meter);
            for ((prompt, job), tokens) in jobs.into_iter().zip(self.judge.one(sampled)?) {
                let completions = tokens.into_iter().map(|tokens| policy.completion(tokens));
                answered.push(Answered {
                    prompt: prompt.clone(),
                    prompt_ids: job.prompt_ids,
                    completions: completions.collect::<Result<_, ModelError>>().map_err(fatal)?,
                });
            }
        }
        Ok(answered)
    }

    /// log π_ref of each completion by the policy that the experiment began with; none if it is the current one.
    fn reference(
        &mut self,
        current: &str,
        answered: &[Answered],
    ) -> Result<Option<Vec<Vec<f64>>>, StepError> {
        if current == self.plan.policy.fingerprint {
            return Ok(None);
        }
        let base = lock(&self.policy).base.clone();
        let mut scorer = base.scorer(base.adapter.as_deref()).map_err(fatal)?;
        let mut reference = Vec::with_capacity(answered.len());
        for Answered { prompt_ids, completions, .. } in answered {
            let items: Vec<ScoreItem> = completions
                .iter()
                .map(|completion| ScoreItem {
                    prompt_ids: prompt_ids.clone(),
                    completion_ids: completion.token_ids.clone(),
                })
                .collect();
            let scores = self.judge.one(scorer.score(&items, &self.cancel, &mut |_| ()))?;
            let sum = |tokens: &Vec<f32>| tokens.iter().map(|&logprob| f64::from(logprob)).sum();
            reference.push(scores.iter().map(sum).collect());
        }
        Ok(Some(reference))
    }

    /// Rewards by the current reward model; none for prompts with an answer that it can never score.
    fn refined(&mut self, answered: &[Answered]) -> Result<Vec<Option<Vec<f64>>>, StepError> {
        let shared = self.proxy.clone();
        answered
            .iter()
            .map(|answered| {
                let proxy = &mut *lock(&shared);
                proxy.follow(&self.versions)?;
                self.rewards(proxy, answered)
            })
            .collect()
    }

    /// Rewards by the proxy that the experiment began with.
    fn first_proxy(
        &mut self,
        current: &str,
        answered: &[Answered],
        refined: &[Option<Vec<f64>>],
    ) -> Result<Vec<Option<Vec<f64>>>, StepError> {
        if current == self.plan.reward.fingerprint {
            return Ok(refined.to_vec());
        }
        let mut proxy = {
            let current = lock(&self.proxy);
            Proxy::open(current.base.clone(), current.template.clone(), current.kind).map_err(fatal)?
        };
        answered.iter().map(|answered| self.rewards(&mut proxy, answered)).collect()
    }

    fn rewards(&mut self, proxy: &mut Proxy, answered: &Answered) -> Result<Option<Vec<f64>>, StepError> {
        let answers = answered.completions.iter().map(|completion| completion.text.as_str());
        or_left_out(proxy.score(&answered.prompt, answers, &mut self.judge, &self.cancel))
    }

    fn gold(&self, answered: &[Answered]) -> Result<Option<Vec<Option<Vec<f64>>>>, StepError> {
        let Some(gold) = &self.gold else { return Ok(None) };
        let score = |answered: &Answered| {
            let answers: Vec<String> = answered.completions.iter().map(|c| c.text.clone()).collect();
            or_left_out(lock(gold).score(&answered.prompt, &answers))
        };
        answered.iter().map(score).collect::<Result<_, _>>().map(Some)
    }
}

/// What can never be scored is left out; other errors stay errors.
fn or_left_out(scores: Result<Vec<f64>, StepError>) -> Result<Option<Vec<f64>>, StepError> {
    match scores {
        Ok(scores) => Ok(Some(scores)),
        Err(StepError::SetAside(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Perform for Evaluation {
    const STEP: StepName = StepName::Evaluation;
    const CONSUMES: &'static [EventType] = &[EventType::EvaluationRequested];

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        batch
            .iter()
            .map(|received| {
                let Event::EvaluationRequested(requested) = &received.event else {
                    return Ok(follows(received, []));
                };
                self.evaluate(requested).map(|evaluated| follows(received, [evaluated.into()]))
            })
            .collect()
    }
}
