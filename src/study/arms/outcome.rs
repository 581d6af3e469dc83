//! The outcome of one experiment of a study, read from its log.

use std::collections::HashMap;

use dissent_domain::event::{
    EvaluationEvent, Event, ExperimentEvent, FeedbackEvent, FeedbackRequested, PolicyEvaluated, PromptEvent,
    Recorded,
};
use dissent_domain::feedback::Verdict;
use dissent_domain::id::PromptId;
use serde::{Deserialize, Serialize};

use crate::study::opponents::JudgedPair;
use crate::study::prediction::{LabelledPair, ScoredPrompt};

/// The outcome of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmOutcome {
    /// Judgements of all rounds.
    pub labels: u64,
    /// Preferences of all rounds.
    pub preferences: u64,
    /// Preferences that the reward model of the round contradicted.
    pub contradicted: u64,
    /// The gold reward of the first policy on held-out prompts.
    pub gold_before: Option<f64>,
    /// The gold reward of the last policy on held-out prompts.
    pub gold: Option<f64>,
    /// The share of pairs that the first proxy orders wrongly, among held-out completions of the first
    /// policy.
    pub proxy_error_before: Option<f64>,
    /// The share of pairs that the last reward model orders wrongly, among held-out completions of the last
    /// policy.
    pub proxy_error: Option<f64>,
    /// KL divergence of the last policy from the first, in nats per completion.
    pub kl: Option<f64>,
    /// The first round, if every pair of its completions was judged.
    pub judged: Option<JudgedRound>,
}

/// A round with its judgements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedRound {
    /// The rewards, log-probabilities and token counts of the completions of each prompt.
    prompts: Vec<(Vec<f64>, Vec<f64>, Vec<usize>)>,
    /// Indices of the prompt, of the preferred completion and of the other one.
    pairs: Vec<(usize, usize, usize)>,
    /// Indices of the prompt and of two completions of which neither is preferred. `None` in outcomes that an
    /// older program wrote.
    #[serde(default)]
    ties: Option<Vec<(usize, usize, usize)>>,
}

impl ArmOutcome {
    /// Returns the share of preferences that the reward model contradicted; `None` without preferences.
    #[must_use]
    pub fn precision(&self) -> Option<f64> {
        (self.preferences > 0).then(|| self.contradicted as f64 / self.preferences as f64)
    }

    /// Folds the events of a finished experiment. `keep_round` keeps the first round with its judgements.
    ///
    /// # Errors
    /// If the experiment is not finished, or an event cannot be decoded.
    pub fn of(events: &[Recorded], keep_round: bool) -> anyhow::Result<Self> {
        let mut fold = Fold::default();
        for recorded in events {
            fold.apply(recorded.decode()?);
        }
        anyhow::ensure!(fold.is_finished, "the experiment is not finished: run the study again");
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
    /// The scores of the first round, by prompt.
    scores: HashMap<PromptId, Scores>,
    /// The comparisons of the first round.
    comparisons: Vec<FeedbackRequested>,
    /// The judgements of the first round, with the number of their comparison.
    verdicts: Vec<(u32, Verdict)>,
}

#[derive(Default)]
struct Scores {
    logprobs: Vec<f64>,
    tokens: Vec<usize>,
    rewards: Vec<f64>,
}

impl Fold {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Prompt(e) if e.round() == 0 => self.apply_to_prompt(e),
            Event::Feedback(e) => self.apply_to_feedback(e),
            Event::Evaluation(e) => match e {
                EvaluationEvent::PolicyEvaluated(e) => self.evaluations.push(e),
                EvaluationEvent::Requested(_) => {}
            },
            Event::Experiment(e) => match e {
                ExperimentEvent::Finished(_) => self.is_finished = true,
                ExperimentEvent::Started(_) | ExperimentEvent::Forked(_) => {}
            },
            Event::Prompt(_) | Event::Operator(_) | Event::Round(_) | Event::Training(_) => {}
        }
    }

    /// Keeps the scores of the first round.
    fn apply_to_prompt(&mut self, event: PromptEvent) {
        match event {
            PromptEvent::Sampled(e) => {
                let scores = self.scores.entry(e.prompt.prompt_id).or_default();
                scores.logprobs = e.completions.iter().map(|completion| completion.logprob).collect();
                scores.tokens = e.completions.iter().map(|completion| completion.token_ids.len()).collect();
            }
            PromptEvent::Scored(e) => self.scores.entry(e.prompt_id).or_default().rewards = e.rewards,
            PromptEvent::Admitted(_) | PromptEvent::Measured(_) | PromptEvent::SetAside(_) => {}
        }
    }

    /// Counts the judgements, and keeps those of the first round.
    fn apply_to_feedback(&mut self, event: FeedbackEvent) {
        let is_first = event.round() == 0;
        match event {
            FeedbackEvent::Requested(e) if is_first => self.comparisons.push(e),
            FeedbackEvent::Received(e) if is_first => self.verdicts.push((e.comparison, e.verdict)),
            FeedbackEvent::Settled(e) => {
                self.labels += e.judgements;
                self.preferences += u64::from(e.preferences);
                self.contradicted += u64::from(e.contradicted);
            }
            FeedbackEvent::Requested(_) | FeedbackEvent::Received(_) => {}
        }
    }

    fn judged_round(&self) -> JudgedRound {
        let mut prompts: Vec<&PromptId> = self.comparisons.iter().map(|e| &e.prompt_id).collect();
        prompts.sort_unstable();
        prompts.dedup();
        let scores = |prompt: &&PromptId| {
            let scores = self.scores.get(*prompt);
            scores.map_or_else(Default::default, |of| {
                (of.rewards.clone(), of.logprobs.clone(), of.tokens.clone())
            })
        };
        let (mut pairs, mut ties) = (Vec::new(), Vec::new());
        for (comparison, verdict) in &self.verdicts {
            let requested = self.comparisons.iter().find(|e| e.comparison == *comparison);
            let Some(requested) = requested else { continue };
            let Ok(prompt) = prompts.binary_search(&&requested.prompt_id) else { continue };
            let (first, second) = (requested.first as usize, requested.second as usize);
            match verdict {
                Verdict::First => pairs.push((prompt, first, second)),
                Verdict::Second => pairs.push((prompt, second, first)),
                Verdict::Tie => ties.push((prompt, first, second)),
            }
        }
        JudgedRound { prompts: prompts.iter().map(scores).collect(), pairs, ties: Some(ties) }
    }
}

impl JudgedRound {
    /// Returns the scores of the completions of each prompt.
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

    /// Whether the ties are known. The outcome of an older program lacks them; the log of the experiment has
    /// them.
    #[must_use]
    pub fn has_ties(&self) -> bool {
        self.ties.is_some()
    }

    /// Returns the judged pairs of completions, ties included.
    #[must_use]
    pub fn judged_pairs(&self) -> Vec<JudgedPair> {
        let judged = |verdict: Verdict| {
            move |&(prompt, first, second): &(usize, usize, usize)| JudgedPair {
                prompt,
                completions: [first, second],
                verdict,
            }
        };
        let preferred = self.pairs.iter().map(judged(Verdict::First));
        preferred.chain(self.ties.iter().flatten().map(judged(Verdict::Tie))).collect()
    }

    /// Returns the pairs of completions with a preference.
    #[must_use]
    pub fn pairs(&self) -> Vec<LabelledPair> {
        self.pairs.iter().map(|&(prompt, better, worse)| LabelledPair { prompt, better, worse }).collect()
    }
}
