//! What the log of an experiment says about it.

use std::collections::HashMap;

use dissent_domain::event::{Event, FeedbackRequested, PolicyEvaluated, Recorded};
use dissent_domain::feedback::Verdict;
use dissent_domain::id::PromptId;
use serde::{Deserialize, Serialize};

use crate::study::prediction::{LabelledPair, ScoredPrompt};

/// What an arm came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmOutcome {
    /// Judgements, of all rounds.
    pub labels: u64,
    /// Preferences that they came to.
    pub preferences: u64,
    /// Those in which the reward model of the round was wrong.
    pub contradicted: u64,
    /// The gold reward of the first policy on held-out prompts.
    pub gold_before: Option<f64>,
    /// The gold reward of the last policy.
    pub gold: Option<f64>,
    /// The share of held-out pairs that the first proxy orders wrongly, on the first policy's answers.
    pub proxy_error_before: Option<f64>,
    /// The share that the last reward model orders wrongly, on the last policy's answers.
    pub proxy_error: Option<f64>,
    /// KL divergence of the last policy from the first.
    pub kl: Option<f64>,
    /// The first round, where every pair of it was judged.
    pub judged: Option<JudgedRound>,
}

/// A round with its judgements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedRound {
    /// By prompt: rewards, log-probabilities, and tokens of each answer.
    prompts: Vec<(Vec<f64>, Vec<f64>, Vec<usize>)>,
    /// Prompt, better and other answer.
    pairs: Vec<(usize, usize, usize)>,
}

impl ArmOutcome {
    /// The share of preferences in which the reward model was wrong; none without any.
    #[must_use]
    pub fn precision(&self) -> Option<f64> {
        (self.preferences > 0).then(|| self.contradicted as f64 / self.preferences as f64)
    }

    /// From the events of a finished experiment; `keep_round` keeps the first round with its judgements.
    ///
    /// # Errors
    /// If the experiment is not finished, or an event cannot be read.
    pub fn of(events: &[Recorded], keep_round: bool) -> anyhow::Result<Self> {
        let mut fold = Fold::default();
        for recorded in events {
            fold.take(recorded.decode()?);
        }
        anyhow::ensure!(fold.is_finished, "the experiment is not finished");
        let (first, last) = (fold.evaluations.first(), fold.evaluations.last());
        let error = |agreement: Option<f64>| agreement.map(|agreement| 1.0 - agreement);
        Ok(Self {
            labels: fold.labels,
            preferences: fold.preferences,
            contradicted: fold.contradicted,
            gold_before: first.and_then(|e| e.gold_reward).map(|[mean, _]| mean),
            gold: last.and_then(|e| e.gold_reward).map(|[mean, _]| mean),
            proxy_error_before: error(first.and_then(|e| e.proxy_agreement)),
            proxy_error: error(last.and_then(|e| e.refined_agreement)),
            kl: last.map(|e| e.kl),
            judged: keep_round.then(|| fold.judged_round()),
        })
    }
}

#[derive(Default)]
struct Fold {
    labels: u64,
    preferences: u64,
    contradicted: u64,
    evaluations: Vec<PolicyEvaluated>,
    is_finished: bool,
    /// Of the first round, by prompt.
    answers: HashMap<PromptId, Scores>,
    asked: Vec<FeedbackRequested>,
    verdicts: Vec<(u32, Verdict)>,
}

#[derive(Default)]
struct Scores {
    logprobs: Vec<f64>,
    tokens: Vec<usize>,
    rewards: Vec<f64>,
}

impl Fold {
    fn take(&mut self, event: Event) {
        match event {
            Event::CompletionsSampled(e) if e.round == 0 => {
                let scores = self.answers.entry(e.prompt.prompt_id).or_default();
                scores.logprobs = e.completions.iter().map(|completion| completion.logprob).collect();
                scores.tokens = e.completions.iter().map(|completion| completion.token_ids.len()).collect();
            }
            Event::RewardsScored(e) if e.round == 0 => {
                self.answers.entry(e.prompt_id).or_default().rewards = e.rewards;
            }
            Event::FeedbackRequested(e) if e.round == 0 => self.asked.push(e),
            Event::FeedbackReceived(e) if e.round == 0 => self.verdicts.push((e.comparison, e.verdict)),
            Event::FeedbackSettled(e) => {
                self.labels += e.judgements;
                self.preferences += u64::from(e.preferences);
                self.contradicted += u64::from(e.contradicted);
            }
            Event::PolicyEvaluated(e) => self.evaluations.push(e),
            Event::ExperimentFinished(_) => self.is_finished = true,
            Event::CompletionsSampled(_)
            | Event::RewardsScored(_)
            | Event::FeedbackRequested(_)
            | Event::FeedbackReceived(_)
            | Event::ExperimentStarted(_)
            | Event::ExperimentForked(_)
            | Event::RoundOpened(_)
            | Event::PromptAdmitted(_)
            | Event::ConflictMeasured(_)
            | Event::PromptSetAside(_)
            | Event::PairSelected(_)
            | Event::RoundEvaluated(_)
            | Event::RoundClosed(_)
            | Event::TrainingRequested(_)
            | Event::TrainingStarted(_)
            | Event::TrainingProgressed(_)
            | Event::TrainingLeaseExpired(_)
            | Event::RewardModelRefined(_)
            | Event::PolicyTuned(_)
            | Event::EvaluationRequested(_)
            | Event::RewardHackingSuspected(_)
            | Event::StopDecided(_)
            | Event::ExperimentPaused(_)
            | Event::ExperimentResumed(_)
            | Event::ExperimentCancelled(_) => {}
        }
    }

    fn judged_round(&self) -> JudgedRound {
        let mut places: Vec<&PromptId> = self.asked.iter().map(|asked| &asked.prompt_id).collect();
        places.sort_unstable();
        places.dedup();
        let scores = |prompt: &&PromptId| {
            let scores = self.answers.get(*prompt);
            scores.map_or_else(Default::default, |of| {
                (of.rewards.clone(), of.logprobs.clone(), of.tokens.clone())
            })
        };
        let pair = |(comparison, verdict): &(u32, Verdict)| {
            let asked = self.asked.iter().find(|asked| asked.comparison == *comparison)?;
            let prompt = places.binary_search(&&asked.prompt_id).ok()?;
            let (first, second) = (asked.first as usize, asked.second as usize);
            match verdict {
                Verdict::First => Some((prompt, first, second)),
                Verdict::Second => Some((prompt, second, first)),
                Verdict::Tie => None,
            }
        };
        JudgedRound {
            prompts: places.iter().map(scores).collect(),
            pairs: self.verdicts.iter().filter_map(pair).collect(),
        }
    }
}

impl JudgedRound {
    /// The answers as proxy and policy see them.
    #[must_use]
    pub fn prompts(&self) -> Vec<ScoredPrompt> {
        let scored = |(rewards, logprobs, tokens): &(Vec<f64>, Vec<f64>, Vec<usize>)| ScoredPrompt {
            rewards: rewards.clone(),
            logprobs: logprobs.clone(),
            logprob_means: logprobs.iter().zip(tokens).map(|(sum, &n)| sum / n.max(1) as f64).collect(),
            ensemble: Vec::new(),
        };
        self.prompts.iter().map(scored).collect()
    }

    /// The pairs with a better answer.
    #[must_use]
    pub fn judged(&self) -> Vec<LabelledPair> {
        self.pairs.iter().map(|&(prompt, better, worse)| LabelledPair { prompt, better, worse }).collect()
    }
}
