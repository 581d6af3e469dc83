//! The compared pairs of an experiment, each with its texts, scores, judgements and outcome.

use std::collections::HashMap;

use dissent_domain::conflict::LogprobKind;
use dissent_domain::event::{
    Event, ExperimentEvent, FeedbackEvent, FeedbackRequested, PromptEvent, Recorded, RoundEvent,
};
use dissent_domain::feedback::{Judgement, Judgements, Verdict};
use dissent_domain::id::PromptId;
use dissent_domain::outcome::{CLAIM, Outcome, PairScores, outcome};

/// The completions of a prompt in one round.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct PromptTexts {
    pub(crate) prompt: String,
    pub(crate) category: Option<String>,
    pub(crate) texts: Vec<String>,
    pub(crate) logprobs: Vec<f64>,
    pub(crate) logprob_means: Vec<f64>,
    pub(crate) rewards: Vec<f64>,
    pub(crate) pacs: Vec<f64>,
}

/// A judgement of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PairJudgement {
    pub(crate) annotator: String,
    pub(crate) verdict: Verdict,
    pub(crate) is_unsafe: Option<[bool; 2]>,
}

/// A compared pair.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pair {
    /// The position and the time of its request.
    pub(crate) position: u64,
    pub(crate) time_us: u64,
    pub(crate) request: FeedbackRequested,
    /// The judgements, in the order of the log.
    pub(crate) judgements: Vec<PairJudgement>,
}

impl Pair {
    /// Returns the verdict of the majority; `None` without judgements.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.counted().majority()
    }

    /// Returns whether a majority finds each completion unsafe; `None` if no annotator judged safety.
    pub(crate) fn is_unsafe(&self) -> Option<[bool; 2]> {
        self.counted().is_unsafe()
    }

    /// The judgements as the feedback step counts them.
    fn counted(&self) -> Judgements {
        let mut counted = Judgements::default();
        for PairJudgement { annotator, verdict, is_unsafe } in &self.judgements {
            counted.insert(annotator, Judgement { verdict: *verdict, is_unsafe: *is_unsafe });
        }
        counted
    }
}

/// Collects the pairs of one experiment from its events.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// Whether the texts of prompts without a pair are kept, too.
    keeps_all: bool,
    /// The log-probability by which the policy orders completions.
    logprob: LogprobKind,
    texts: HashMap<(u32, PromptId), PromptTexts>,
    pairs: Vec<Pair>,
    /// The index of the first pair of each round, whose comparisons are numbered from there.
    rounds: HashMap<u32, usize>,
}

impl Pairs {
    /// Creates a collection that also keeps the texts of prompts without a pair.
    pub(crate) fn with_all_texts() -> Self {
        Self { keeps_all: true, ..Self::default() }
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// If the event cannot be decoded.
    pub(crate) fn apply(&mut self, recorded: &Recorded) -> anyhow::Result<()> {
        match recorded.decode()? {
            Event::Prompt(e) => self.apply_to_prompt(e),
            Event::Feedback(FeedbackEvent::Requested(request)) => {
                self.rounds.entry(request.round).or_insert(self.pairs.len());
                let (position, time_us) = (recorded.position, recorded.event.time_us);
                self.pairs.push(Pair { position, time_us, request, judgements: Vec::new() });
            }
            Event::Feedback(FeedbackEvent::Received(e)) => {
                let first = self.rounds.get(&e.round).copied().unwrap_or_default();
                if let Some(pair) = self.pairs.get_mut(first + e.comparison as usize) {
                    let (annotator, verdict, is_unsafe) = (e.annotator, e.verdict, e.is_unsafe);
                    pair.judgements.push(PairJudgement { annotator, verdict, is_unsafe });
                }
            }
            Event::Round(RoundEvent::Closed(e)) => self.forget_uncompared(e.round),
            Event::Experiment(ExperimentEvent::Started(e)) => self.logprob = e.plan.conflict.logprob,
            Event::Experiment(ExperimentEvent::Forked(e)) => self.logprob = e.plan.conflict.logprob,
            Event::Feedback(FeedbackEvent::Settled(_))
            | Event::Experiment(ExperimentEvent::Finished(_))
            | Event::Operator(_)
            | Event::Round(_)
            | Event::Training(_)
            | Event::Evaluation(_) => {}
        }
        Ok(())
    }

    fn apply_to_prompt(&mut self, event: PromptEvent) {
        let key = (event.round(), event.prompt_id().clone());
        match event {
            PromptEvent::Sampled(e) => {
                let logprob_means =
                    e.completions.iter().map(dissent_domain::generation::Completion::logprob_mean);
                let texts = PromptTexts {
                    logprobs: e.completions.iter().map(|completion| completion.logprob).collect(),
                    logprob_means: logprob_means.collect(),
                    prompt: e.prompt.text,
                    category: e.prompt.category,
                    texts: e.completions.into_iter().map(|completion| completion.text).collect(),
                    ..PromptTexts::default()
                };
                self.texts.insert(key, texts);
            }
            PromptEvent::Scored(e) => {
                self.texts.entry(key).or_default().rewards = e.rewards;
            }
            PromptEvent::Measured(e) => {
                self.texts.entry(key).or_default().pacs = e.conflict.pacs;
            }
            PromptEvent::Admitted(_) | PromptEvent::SetAside(_) => {}
        }
    }

    /// Drops the texts of a closed round that no pair needs.
    fn forget_uncompared(&mut self, round: u32) {
        if self.keeps_all {
            return;
        }
        let compared: std::collections::HashSet<&PromptId> = self
            .pairs
            .iter()
            .filter(|pair| pair.request.round == round)
            .map(|pair| &pair.request.prompt_id)
            .collect();
        self.texts.retain(|(of, prompt_id), _| *of != round || compared.contains(prompt_id));
    }

    /// Returns the pairs, in the order of the log.
    pub(crate) fn all(&self) -> &[Pair] {
        &self.pairs
    }

    /// Returns the pair of a comparison, and its place in the order of the log.
    pub(crate) fn of(&self, round: u32, comparison: u32) -> Option<(usize, &Pair)> {
        let place = self.rounds.get(&round)? + comparison as usize;
        let pair = self.pairs.get(place).filter(|pair| pair.request.round == round)?;
        Some((place, pair))
    }

    /// Returns the outcome of a pair; `None` if it has no judgement or no scores.
    pub(crate) fn outcome(&self, pair: &Pair) -> Option<Outcome> {
        let texts = self.texts(pair.request.round, &pair.request.prompt_id)?;
        let logprobs = match self.logprob {
            LogprobKind::Sum => &texts.logprobs,
            LogprobKind::Mean => &texts.logprob_means,
        };
        let (first, second) = (pair.request.first as usize, pair.request.second as usize);
        let scores = PairScores::of_scores(&texts.rewards, logprobs, first, second)?;
        Some(outcome(scores, pair.verdict()?, pair.is_unsafe(), CLAIM))
    }

    /// Returns the completions of a prompt; `None` if they are not recorded, or no longer needed.
    pub(crate) fn texts(&self, round: u32, prompt_id: &PromptId) -> Option<&PromptTexts> {
        self.texts.get(&(round, prompt_id.clone()))
    }
}
