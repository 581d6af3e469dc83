//! A round: fan-out over its prompts, and the fan-in that closes it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::analysis::mean;
use crate::conflict::{self, Conflict, ScoredCompletions, Selection};
use crate::decision::{Due, Rejection};
use crate::event::{
    CompletionsSampled, ConflictMeasured, Event, EventId, FeedbackEvent, FeedbackRequested, PairSelected,
    PromptAdmitted, PromptEvent, PromptSetAside, RewardsScored, RoundClosed, RoundEvaluated, RoundEvent,
    StepName, TrainingEvent,
};
use crate::feedback::{self, Opponent};
use crate::id::PromptId;
use crate::learning::Learning;
use crate::plan::Plan;

/// Progress of a prompt in a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PromptProgress {
    /// The prompt waits for completions.
    Admitted,
    /// The prompt has this many completions and waits for rewards.
    Sampled(usize),
    /// The prompt has these rewards and waits for its conflict.
    Scored(Vec<f64>),
    /// The conflict of the prompt is measured.
    Measured {
        /// The conflict.
        conflict: Conflict,
        /// The rewards from which it was measured.
        rewards: Vec<f64>,
    },
    /// This step set the prompt aside.
    SetAside(StepName),
}

/// Numbers of prompts of a round that have reached each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RoundCounts {
    /// Prompts the round will have.
    pub expected: u32,
    /// Admitted.
    pub admitted: u32,
    /// Prompts with sampled completions.
    pub sampled: u32,
    /// Scored by the reward model.
    pub scored: u32,
    /// Conflict measured.
    pub measured: u32,
    /// Set aside.
    pub set_aside: u32,
    /// Completions sampled.
    pub completions: u64,
    /// Response tokens sampled.
    pub tokens: u64,
    /// Pairs selected.
    pub selected: u32,
}

/// The state of one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    number: u32,
    /// The id of the event that opened it. Not part of a snapshot:
    /// [`Experiment`](crate::experiment::Experiment) restores it.
    #[serde(skip, default = "unknown_id")]
    opened: EventId,
    /// By place in the prompt file, so that selection breaks ties alike for every order of arrival.
    prompts: Vec<Option<(PromptId, PromptProgress)>>,
    #[serde(skip)]
    places: HashMap<PromptId, usize>,
    counts: RoundCounts,
    evaluated: Option<RoundEvaluated>,
    learning: Learning,
    closed: bool,
}

/// Largest number of prompts in a prompt file.
pub const PROMPTS_MAX: u32 = 10_000_000;

impl Round {
    /// A new round that expects this many prompts; `opened` is the id of the event that opened it.
    #[must_use]
    pub fn open(opened: EventId, number: u32, expected: u32) -> Self {
        Self {
            number,
            opened,
            prompts: Vec::new(),
            places: HashMap::new(),
            counts: RoundCounts { expected, ..RoundCounts::default() },
            evaluated: None,
            learning: Learning::default(),
            closed: false,
        }
    }

    /// Restores the fields that a snapshot leaves out.
    pub(crate) fn index(&mut self, opened: EventId) {
        self.opened = opened;
        let named = self.prompts.iter().enumerate();
        self.places = named.filter_map(|(place, prompt)| Some((prompt.as_ref()?.0.clone(), place))).collect();
    }

    /// The number of the round, from 0.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The id of the event that opened it.
    pub(crate) fn opened(&self) -> EventId {
        self.opened
    }

    /// Whether the round is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Numbers of prompts by progress.
    #[must_use]
    pub fn counts(&self) -> RoundCounts {
        self.counts
    }

    /// The figures of the round; `None` before its evaluation.
    #[must_use]
    pub fn evaluation(&self) -> Option<&RoundEvaluated> {
        self.evaluated.as_ref()
    }

    /// Feedback and trainings of the round.
    #[must_use]
    pub fn learning(&self) -> &Learning {
        &self.learning
    }

    /// The prompts, in the order of the prompt file.
    pub fn prompts(&self) -> impl Iterator<Item = &(PromptId, PromptProgress)> {
        self.prompts.iter().flatten()
    }

    /// Whether every prompt is measured or set aside: the fan-in.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.counts.measured + self.counts.set_aside == self.counts.expected
    }

    /// Returns a prompt's place in the prompt file, and its progress.
    pub(crate) fn prompt(&self, prompt_id: &PromptId) -> Option<(u32, &PromptProgress)> {
        let place = u32::try_from(*self.places.get(prompt_id)?).ok()?;
        Some((place, self.progress(prompt_id)?))
    }

    pub(crate) fn progress(&self, prompt_id: &PromptId) -> Option<&PromptProgress> {
        let place = *self.places.get(prompt_id)?;
        self.prompts.get(place)?.as_ref().map(|(_, progress)| progress)
    }

    pub(crate) fn decide_admit(&self, e: &PromptAdmitted) -> Result<(), Rejection> {
        let reject = |reason| rejection(&e.prompt.prompt_id, reason);
        if e.index >= self.counts.expected {
            return reject("its index is beyond the prompts of the round");
        }
        if self.places.contains_key(&e.prompt.prompt_id) {
            return reject("the round already has it");
        }
        match self.prompts.get(e.index as usize) {
            Some(Some(_)) => reject("another prompt has its index"),
            _ => Ok(()),
        }
    }

    pub(crate) fn decide_sampled(
        &self,
        plan: &Plan,
        policy: &str,
        e: &CompletionsSampled,
    ) -> Result<(), Rejection> {
        let reject = |reason| rejection(&e.prompt.prompt_id, reason);
        if self.progress(&e.prompt.prompt_id) != Some(&PromptProgress::Admitted) {
            return reject("no completions are pending");
        }
        if e.completions.len() != plan.sampling.samples as usize {
            return reject("the number of completions differs from the plan");
        }
        if e.policy != policy {
            return reject("the completions come from another policy than the current one");
        }
        if e.completions.iter().any(|completion| !completion.logprob.is_finite()) {
            return reject("a log-probability is not finite");
        }
        Ok(())
    }

    pub(crate) fn decide_scored(&self, reward_model: &str, e: &RewardsScored) -> Result<(), Rejection> {
        let reject = |reason| rejection(&e.prompt_id, reason);
        match self.progress(&e.prompt_id) {
            Some(PromptProgress::Sampled(n)) if *n == e.rewards.len() => {}
            Some(PromptProgress::Sampled(_)) => {
                return reject("the number of rewards differs from the number of completions");
            }
            _ => return reject("no rewards are pending"),
        }
        if e.reward_model != reward_model {
            return reject("the rewards come from another reward model than the current one");
        }
        if e.rewards.iter().any(|reward| !reward.is_finite()) {
            return reject("a reward is not finite");
        }
        Ok(())
    }

    pub(crate) fn decide_measured(&self, e: &ConflictMeasured) -> Result<(), Rejection> {
        match self.progress(&e.prompt_id) {
            Some(PromptProgress::Scored(rewards)) if rewards.len() == e.conflict.pacs.len() => {
                if e.conflict.is_finite() {
                    Ok(())
                } else {
                    rejection(&e.prompt_id, "a figure of the conflict is not finite")
                }
            }
            Some(PromptProgress::Scored(_)) => {
                rejection(&e.prompt_id, "the number of PACS differs from the number of completions")
            }
            _ => rejection(&e.prompt_id, "no conflict is pending"),
        }
    }

    pub(crate) fn decide_set_aside(&self, e: &PromptSetAside) -> Result<(), Rejection> {
        match self.progress(&e.prompt_id) {
            None => rejection(&e.prompt_id, "the round does not have it"),
            Some(PromptProgress::Measured { .. } | PromptProgress::SetAside(_)) => {
                rejection(&e.prompt_id, "it is already measured or set aside")
            }
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn decide_selected(&self, e: &PairSelected) -> Result<(), Rejection> {
        self.decide_complete()?;
        match self.progress(&e.prompt_id) {
            Some(PromptProgress::Measured { conflict, .. })
                if (e.completion as usize) < conflict.pacs.len() =>
            {
                Ok(())
            }
            _ => rejection(&e.prompt_id, "no measured completion has this number"),
        }
    }

    pub(crate) fn decide_asked(&self, e: &FeedbackRequested) -> Result<(), Rejection> {
        self.decide_complete()?;
        let reject = |reason| Err(Rejection::Comparison { round: e.round, comparison: e.comparison, reason });
        if self.evaluated.is_some() || (e.comparison as usize) < self.learning.comparisons().len() {
            return reject("it was already requested");
        }
        match self.progress(&e.prompt_id) {
            Some(PromptProgress::Measured { rewards, .. })
                if e.first != e.second && (e.first.max(e.second) as usize) < rewards.len() =>
            {
                Ok(())
            }
            _ => reject("it does not name two measured completions"),
        }
    }

    pub(crate) fn decide_complete(&self) -> Result<(), Rejection> {
        if self.is_complete() {
            Ok(())
        } else {
            Err(Rejection::Round {
                round: self.number,
                reason: "some prompts are neither measured nor set aside",
            })
        }
    }

    /// Applies an event of one prompt.
    pub(crate) fn evolve_prompt(&mut self, event: &PromptEvent) {
        match event {
            PromptEvent::Admitted(e) => self.admit(e),
            PromptEvent::Sampled(e) => {
                self.counts.sampled += 1;
                self.counts.completions += e.completions.len() as u64;
                self.counts.tokens += e.completions.iter().map(|c| c.token_ids.len() as u64).sum::<u64>();
                self.advance(&e.prompt.prompt_id, PromptProgress::Sampled(e.completions.len()));
            }
            PromptEvent::Scored(e) => {
                self.counts.scored += 1;
                self.advance(&e.prompt_id, PromptProgress::Scored(e.rewards.clone()));
            }
            PromptEvent::Measured(e) => {
                self.counts.measured += 1;
                self.measure(e);
            }
            PromptEvent::SetAside(e) => {
                self.counts.set_aside += 1;
                self.advance(&e.prompt_id, PromptProgress::SetAside(e.step));
            }
        }
    }

    /// Applies an event of the round itself.
    pub(crate) fn evolve_round(&mut self, event: &RoundEvent) {
        match event {
            RoundEvent::PairSelected(_) => self.counts.selected += 1,
            RoundEvent::Evaluated(e) => self.evaluated = Some(e.clone()),
            RoundEvent::Closed(_) => self.closed = true,
            // The experiment keeps these.
            RoundEvent::Opened(_) | RoundEvent::RewardHackingSuspected(_) | RoundEvent::StopDecided(_) => {}
        }
    }

    /// Applies an event of the round's feedback.
    pub(crate) fn evolve_feedback(&mut self, event: &FeedbackEvent) {
        match event {
            FeedbackEvent::Requested(e) => {
                let rewards = [e.first, e.second].map(|completion| self.reward(&e.prompt_id, completion));
                self.learning.request_comparison(e, rewards);
            }
            FeedbackEvent::Received(e) => self.learning.receive(e),
            FeedbackEvent::Settled(e) => self.learning.settle_as(e),
        }
    }

    /// Applies an event of one of the round's trainings.
    pub(crate) fn evolve_training(&mut self, event: &TrainingEvent) {
        self.learning.evolve_training(self.opened, event);
    }

    /// The reward of a measured completion; NaN where there is none.
    fn reward(&self, prompt_id: &PromptId, completion: u32) -> f64 {
        let Some(PromptProgress::Measured { rewards, .. }) = self.progress(prompt_id) else {
            return f64::NAN;
        };
        rewards.get(completion as usize).copied().unwrap_or(f64::NAN)
    }

    fn measure(&mut self, e: &ConflictMeasured) {
        let rewards = match self.progress(&e.prompt_id) {
            Some(PromptProgress::Scored(rewards)) => rewards.clone(),
            _ => Vec::new(),
        };
        self.advance(&e.prompt_id, PromptProgress::Measured { conflict: e.conflict.clone(), rewards });
    }

    fn admit(&mut self, e: &PromptAdmitted) {
        let place = e.index as usize;
        if e.index >= self.counts.expected.min(PROMPTS_MAX) {
            return;
        }
        if self.prompts.len() <= place {
            self.prompts.resize(place + 1, None);
        }
        self.prompts[place] = Some((e.prompt.prompt_id.clone(), PromptProgress::Admitted));
        self.places.insert(e.prompt.prompt_id.clone(), place);
        self.counts.admitted += 1;
    }

    fn advance(&mut self, prompt_id: &PromptId, progress: PromptProgress) {
        let place = self.places.get(prompt_id).copied();
        if let Some(Some(entry)) = place.and_then(|place| self.prompts.get_mut(place)) {
            entry.1 = progress;
        }
    }

    /// Returns the events that are due in this round, all together. `None` while prompts or other results are
    /// pending.
    pub(crate) fn due(&self, plan: &Plan) -> Option<Due> {
        if !self.is_complete() || self.closed {
            return None;
        }
        match (&self.evaluated, &plan.learning) {
            (Some(_), Some(learning)) => self.learning.due(learning, self.number, self.opened),
            (None, Some(_)) | (_, None) => Some(Due { cause: self.opened, events: self.conclude(plan) }),
        }
    }

    /// The events after the last measured prompt: selection, comparisons, figures. Without learning, the
    /// close too.
    fn conclude(&self, plan: &Plan) -> Vec<Event> {
        let measured: Vec<Measured<'_>> = self.measured().collect();
        let selection = self.select(plan, &measured);
        let mut events: Vec<Event> = self.pairs(&measured, &selection.answers).map(Event::from).collect();
        let pairs = u32::try_from(events.len()).unwrap_or(u32::MAX);
        if let Some(learning) = &plan.learning {
            let opponent = learning.feedback.opponent;
            events.extend(self.ask(plan, opponent, &measured, &selection).map(Event::from));
        }
        events.push(self.evaluate(&measured, pairs).into());
        if plan.learning.is_none() {
            events.push(RoundClosed { round: self.number }.into());
        }
        events
    }

    /// Returns the pairs and the comparisons that the plan selects from the prompts measured so far.
    pub(crate) fn selection_with(
        &self,
        plan: &Plan,
        opponent: Opponent,
    ) -> (Vec<PairSelected>, Vec<FeedbackRequested>) {
        let measured: Vec<Measured<'_>> = self.measured().collect();
        let selection = self.select(plan, &measured);
        let pairs = self.pairs(&measured, &selection.answers).collect();
        (pairs, self.ask(plan, opponent, &measured, &selection).collect())
    }

    fn measured(&self) -> impl Iterator<Item = Measured<'_>> {
        (0_u32..).zip(&self.prompts).filter_map(|(index, prompt)| {
            let (prompt_id, PromptProgress::Measured { conflict, rewards }) = prompt.as_ref()? else {
                return None;
            };
            Some(Measured { index, prompt_id, conflict, rewards })
        })
    }

    /// Selects from the measured prompts.
    fn select(&self, plan: &Plan, measured: &[Measured<'_>]) -> Selection {
        let answers: Vec<ScoredCompletions<'_>> = measured
            .iter()
            .map(|prompt| ScoredCompletions { conflict: prompt.conflict, rewards: prompt.rewards })
            .collect();
        conflict::select(&plan.conflict.selection, &answers, self.seed(plan))
    }

    /// The seed of this round's random choices, from the seed of the experiment.
    fn seed(&self, plan: &Plan) -> u64 {
        plan.seed.wrapping_add(u64::from(self.number))
    }

    fn pairs<'a>(
        &'a self,
        measured: &'a [Measured<'a>],
        selected: &'a [Vec<usize>],
    ) -> impl Iterator<Item = PairSelected> + 'a {
        measured.iter().zip(selected).flat_map(|(prompt, chosen)| {
            chosen.iter().map(|&completion| PairSelected {
                round: self.number,
                prompt_id: prompt.prompt_id.clone(),
                completion: u32::try_from(completion).unwrap_or(u32::MAX),
                pacs: prompt.conflict.pacs[completion],
            })
        })
    }

    fn ask<'a>(
        &'a self,
        plan: &Plan,
        opponent: Opponent,
        measured: &'a [Measured<'a>],
        selection: &'a Selection,
    ) -> impl Iterator<Item = FeedbackRequested> + 'a {
        let seed = self.seed(plan);
        let of_prompt = move |(place, prompt): (usize, &'a Measured<'a>)| {
            // Each prompt has its own seed: its comparisons do not depend on other prompts.
            let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(prompt.index));
            let asked = match &selection.pairs {
                Some(pairs) => feedback::shown(&pairs[place], seed),
                None => feedback::comparisons(
                    opponent,
                    &selection.answers[place],
                    &prompt.conflict.pacs,
                    prompt.rewards,
                    seed,
                ),
            };
            asked.into_iter().map(move |pair| (prompt, pair))
        };
        let completion = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        (0_u32..).zip(measured.iter().enumerate().flat_map(of_prompt)).map(
            move |(comparison, (prompt, pair))| FeedbackRequested {
                round: self.number,
                comparison,
                prompt_id: prompt.prompt_id.clone(),
                prompt_index: prompt.index,
                first: completion(pair.first),
                second: completion(pair.second),
            },
        )
    }

    fn evaluate(&self, measured: &[Measured<'_>], selected: u32) -> RoundEvaluated {
        let defined = || measured.iter().map(|prompt| prompt.conflict).filter(|c| !c.degenerate);
        let degenerate = measured.len() - defined().count();
        RoundEvaluated {
            round: self.number,
            measured: self.counts.measured,
            degenerate: u32::try_from(degenerate).unwrap_or(u32::MAX),
            set_aside: self.counts.set_aside,
            selected,
            mean_abs_pacs: mean(defined().map(|c| c.mean_abs_pacs)),
            kendall_tau: mean(defined().filter_map(|c| c.kendall_tau)),
        }
    }
}

/// A prompt with a measured conflict.
struct Measured<'a> {
    index: u32,
    prompt_id: &'a PromptId,
    conflict: &'a Conflict,
    rewards: &'a [f64],
}

fn unknown_id() -> EventId {
    EventId(uuid::Uuid::nil())
}

fn rejection(prompt_id: &PromptId, reason: &'static str) -> Result<(), Rejection> {
    Err(Rejection::Prompt { prompt_id: prompt_id.clone(), reason })
}
