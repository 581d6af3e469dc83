//! Folds events into the figures of a round.
//!
//! The history is read twice. The first pass keeps numbers only; the second reads the texts of the few
//! completions that the report shows. Memory grows with the number of completions, not with their length.

use std::collections::HashMap;

use dissent_domain::conflict::{Conflict, z_scores};
use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, Event, ExperimentEvent, PairSelected, PromptEvent, Recorded,
    RewardsScored, RoundEvent,
};
use dissent_domain::generation::Completion;
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_domain::round::PROMPTS_MAX;

use super::data::{
    CompletionFigures, Judged, PromptFigures, PromptState, ReportError, SelectedPair, SetAside,
};
use super::learning::LearningFold;

/// Events read at a time. A page must fit in memory, and each event may hold all texts of a prompt.
const PAGE_EVENTS: usize = 64;

/// Characters of a prompt that tell its topic.
const TOPIC_CHARS: usize = 1000;

/// A history that can be read more than once.
pub(super) trait History {
    /// Calls `visit` with each event, in order, until it fails.
    fn visit(&self, visit: &mut dyn FnMut(&Recorded) -> Result<(), ReportError>) -> Result<(), ReportError>;
}

/// The stream of an experiment in a log.
pub(super) struct Stream<'a> {
    pub(super) log: &'a dyn EventLog,
    pub(super) experiment: &'a ExperimentId,
}

impl History for Stream<'_> {
    fn visit(&self, visit: &mut dyn FnMut(&Recorded) -> Result<(), ReportError>) -> Result<(), ReportError> {
        let mut after = 0;
        loop {
            let page = self.log.read_stream(self.experiment, after, PAGE_EVENTS)?;
            page.iter().try_for_each(&mut *visit)?;
            match page.last() {
                Some(last) if page.len() == PAGE_EVENTS => after = last.version,
                _ => return Ok(()),
            }
        }
    }
}

impl History for [Recorded] {
    fn visit(&self, visit: &mut dyn FnMut(&Recorded) -> Result<(), ReportError>) -> Result<(), ReportError> {
        self.iter().try_for_each(visit)
    }
}

pub(super) fn decode(recorded: &Recorded) -> Result<Event, ReportError> {
    recorded.decode().map_err(|source| ReportError::Body { position: recorded.position, source })
}

/// The numbers of one round: the requested round, or the last opened one.
#[derive(Default)]
pub(super) struct RoundNumbers {
    pub(super) requested: Option<u32>,
    pub(super) plan: Option<Plan>,
    /// The round of the fields below.
    pub(super) round: Option<u32>,
    pub(super) rounds_opened: u32,
    pub(super) expected: u32,
    pub(super) closed: bool,
    /// In the order of admission.
    pub(super) prompts: Vec<PromptFigures>,
    /// The place and the beginning of each prompt, for topics.
    texts: Vec<(u32, PromptId, String)>,
    /// Indices into `prompts`.
    indices: HashMap<PromptId, usize>,
    pub(super) selected: Vec<SelectedPair>,
    pub(super) set_aside: Vec<SetAside>,
    pub(super) learning: LearningFold,
}

impl RoundNumbers {
    pub(super) fn of(history: &(impl History + ?Sized), requested: Option<u32>) -> Result<Self, ReportError> {
        let mut numbers = Self { requested, ..Self::default() };
        history.visit(&mut |recorded| {
            let event = decode(recorded)?;
            numbers.learning.apply(&event);
            numbers.apply(event);
            Ok(())
        })?;
        Ok(numbers)
    }

    /// The beginnings of the prompts, in the order of the prompt file.
    pub(super) fn prompt_texts(&mut self) -> Vec<(PromptId, String)> {
        let mut texts = std::mem::take(&mut self.texts);
        texts.sort_by_key(|(index, ..)| *index);
        texts.into_iter().map(|(_, prompt_id, text)| (prompt_id, text)).collect()
    }

    /// Notes the part of each completion in the judged pairs of the round.
    pub(super) fn note_judged(&mut self) {
        let Some(round) = self.round else { return };
        let judged = self.learning.judged(round);
        for prompt in &mut self.prompts {
            let Some(judged) = judged.get(&prompt.prompt_id) else { continue };
            for (completion, judged) in prompt.completions.iter_mut().zip(judged) {
                completion.judged = *judged;
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Experiment(e) => match e {
                ExperimentEvent::Started(e) => self.plan = Some(e.plan),
                ExperimentEvent::Forked(e) => self.plan = Some(e.plan),
                ExperimentEvent::Finished(_) => {}
            },
            Event::Round(e) => self.apply_to_round(e),
            Event::Prompt(e) if self.is_open(e.round()) => self.apply_to_prompt(e),
            Event::Prompt(_)
            | Event::Operator(_)
            | Event::Feedback(_)
            | Event::Training(_)
            | Event::Evaluation(_) => {}
        }
    }

    fn apply_to_round(&mut self, event: RoundEvent) {
        let is_open = self.is_open(event.round());
        match event {
            RoundEvent::Opened(e) => {
                self.rounds_opened += 1;
                if self.requested.is_none_or(|requested| requested == e.round) {
                    self.open(e.round, e.prompts);
                }
            }
            RoundEvent::PairSelected(e) if is_open => self.select(e),
            // Without a learning part the round is not complete before it closes.
            RoundEvent::Evaluated(_) if is_open => {
                self.closed = self.plan.as_ref().is_some_and(|plan| plan.learning.is_some());
            }
            RoundEvent::Closed(_) if is_open => self.closed = true,
            RoundEvent::PairSelected(_)
            | RoundEvent::Evaluated(_)
            | RoundEvent::Closed(_)
            | RoundEvent::RewardHackingSuspected(_)
            | RoundEvent::StopDecided(_) => {}
        }
    }

    fn apply_to_prompt(&mut self, event: PromptEvent) {
        match event {
            PromptEvent::Admitted(e) if e.index < PROMPTS_MAX => {
                self.indices.insert(e.prompt.prompt_id.clone(), self.prompts.len());
                let text: String = e.prompt.text.chars().take(TOPIC_CHARS).collect();
                self.texts.push((e.index, e.prompt.prompt_id.clone(), text));
                self.prompts.push(admitted(e.prompt.prompt_id, e.index, e.prompt.category));
            }
            PromptEvent::Admitted(_) => {}
            PromptEvent::Sampled(e) => self.sampled(&e),
            PromptEvent::Scored(e) => self.scored(&e),
            PromptEvent::Measured(e) => self.measured(&e),
            PromptEvent::SetAside(e) => {
                if let Some(prompt) = self.prompt(&e.prompt_id) {
                    prompt.state = PromptState::SetAside;
                }
                self.set_aside.push(SetAside { prompt_id: e.prompt_id, step: e.step, reason: e.reason });
            }
        }
    }

    fn open(&mut self, round: u32, expected: u32) {
        let (requested, plan, rounds_opened) = (self.requested, self.plan.take(), self.rounds_opened);
        let learning = std::mem::take(&mut self.learning);
        let round = Some(round);
        *self = Self { requested, plan, rounds_opened, round, expected, learning, ..Self::default() };
    }

    fn is_open(&self, round: u32) -> bool {
        self.round == Some(round)
    }

    fn prompt(&mut self, prompt_id: &PromptId) -> Option<&mut PromptFigures> {
        let index = *self.indices.get(prompt_id)?;
        self.prompts.get_mut(index)
    }

    fn sampled(&mut self, e: &CompletionsSampled) {
        if let Some(prompt) = self.prompt(&e.prompt.prompt_id) {
            prompt.state = PromptState::Sampled;
            prompt.completions = e.completions.iter().map(sampled_completion).collect();
        }
    }

    fn scored(&mut self, e: &RewardsScored) {
        if let Some(prompt) = self.prompt(&e.prompt_id) {
            prompt.state = PromptState::Scored;
            for (completion, reward) in prompt.completions.iter_mut().zip(&e.rewards) {
                completion.reward = Some(*reward);
            }
        }
    }

    fn measured(&mut self, e: &ConflictMeasured) {
        let kind = self.plan.as_ref().map(|plan| plan.conflict.logprob).unwrap_or_default();
        let Some(prompt) = self.prompt(&e.prompt_id) else { return };
        prompt.state = PromptState::Measured;
        let Conflict { degenerate, concordant, discordant, tied, .. } = e.conflict;
        (prompt.degenerate, prompt.concordant, prompt.discordant, prompt.tied) =
            (degenerate, concordant, discordant, tied);
        for (completion, flags) in prompt.completions.iter_mut().zip(&e.flags) {
            completion.flags.clone_from(flags);
        }
        if degenerate {
            return;
        }
        prompt.mean_abs_pacs = Some(e.conflict.mean_abs_pacs);
        prompt.kendall_tau = e.conflict.kendall_tau;
        prompt.kendall_tau_distance = e.conflict.kendall_tau_distance;
        let rewards: Vec<f64> =
            prompt.completions.iter().filter_map(|completion| completion.reward).collect();
        let logprobs: Vec<f64> =
            prompt.completions.iter().map(|completion| completion.logprob_as(kind)).collect();
        let z_rewards = z_scores(&rewards).unwrap_or_default();
        let z_logprobs = z_scores(&logprobs).unwrap_or_default();
        for (index, (completion, pacs)) in prompt.completions.iter_mut().zip(&e.conflict.pacs).enumerate() {
            completion.pacs = Some(*pacs);
            completion.z_reward = z_rewards.get(index).copied();
            completion.z_logprob = z_logprobs.get(index).copied();
        }
    }

    fn select(&mut self, e: PairSelected) {
        let index = usize::try_from(e.completion).unwrap_or(usize::MAX);
        if let Some(completion) =
            self.prompt(&e.prompt_id).and_then(|prompt| prompt.completions.get_mut(index))
        {
            completion.selected = true;
        }
        let PairSelected { prompt_id, completion, pacs, .. } = e;
        self.selected.push(SelectedPair { prompt_id, completion, pacs, excerpt: None });
    }
}

fn admitted(prompt_id: PromptId, index: u32, category: Option<String>) -> PromptFigures {
    PromptFigures {
        prompt_id,
        index,
        category,
        state: PromptState::Admitted,
        degenerate: false,
        mean_abs_pacs: None,
        kendall_tau: None,
        kendall_tau_distance: None,
        concordant: 0,
        discordant: 0,
        tied: 0,
        completions: Vec::new(),
    }
}

fn sampled_completion(completion: &Completion) -> CompletionFigures {
    CompletionFigures {
        logprob: completion.logprob,
        logprob_mean: completion.logprob_mean(),
        tokens: u32::try_from(completion.token_ids.len()).unwrap_or(u32::MAX),
        finish_reason: completion.finish_reason,
        reward: None,
        z_logprob: None,
        z_reward: None,
        pacs: None,
        selected: false,
        flags: Vec::new(),
        judged: Judged::No,
    }
}

/// Requested texts of a round.
#[derive(Default)]
pub(super) struct Texts {
    requested: HashMap<PromptId, PromptTexts>,
}

#[derive(Default)]
struct PromptTexts {
    prompt: String,
    completions: HashMap<u32, String>,
}

impl Texts {
    /// Requests the text of a prompt.
    pub(super) fn request_prompt(&mut self, prompt_id: &PromptId) {
        self.requested.entry(prompt_id.clone()).or_default();
    }

    /// Requests the texts of a prompt and of one of its completions.
    pub(super) fn request(&mut self, prompt_id: &PromptId, completion: u32) {
        self.requested.entry(prompt_id.clone()).or_default().completions.entry(completion).or_default();
    }

    /// Reads the requested texts.
    pub(super) fn fetch(&mut self, history: &(impl History + ?Sized), round: u32) -> Result<(), ReportError> {
        if self.requested.is_empty() {
            return Ok(());
        }
        history.visit(&mut |recorded| {
            if let Ok(e) = CompletionsSampled::try_from(decode(recorded)?)
                && e.round == round
            {
                self.keep(e);
            }
            Ok(())
        })
    }

    fn keep(&mut self, e: CompletionsSampled) {
        let Some(texts) = self.requested.get_mut(&e.prompt.prompt_id) else { return };
        texts.prompt = e.prompt.text;
        for (index, completion) in (0_u32..).zip(e.completions) {
            if let Some(text) = texts.completions.get_mut(&index) {
                *text = completion.text;
            }
        }
    }

    /// Returns the text of a prompt; empty if it was not requested.
    pub(super) fn prompt(&self, prompt_id: &PromptId) -> &str {
        self.requested.get(prompt_id).map_or("", |texts| &texts.prompt)
    }

    /// Returns the text of a completion; empty if it was not requested.
    pub(super) fn completion(&self, prompt_id: &PromptId, completion: u32) -> &str {
        self.requested
            .get(prompt_id)
            .and_then(|texts| texts.completions.get(&completion))
            .map_or("", String::as_str)
    }
}
