//! The prompts of a round. Each is admitted, sampled, scored and measured, or a step sets it aside.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::conflict::Conflict;
use crate::event::{
    CompletionsSampled, ConflictMeasured, EventId, EventType, PromptAdmitted, PromptEvent, RewardsScored,
    StepName,
};
use crate::flags::Flag;
use crate::id::PromptId;

/// Largest number of prompts in a prompt file.
pub const PROMPTS_MAX: u32 = 10_000_000;

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
        /// The flags of each completion; empty if they are not recorded.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        flags: Vec<Vec<Flag>>,
    },
    /// This step set the prompt aside.
    SetAside(StepName),
}

/// Numbers of prompts of a round that have reached each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RoundCounts {
    /// Number of prompts in the round.
    pub expected: u32,
    /// Admitted prompts.
    pub admitted: u32,
    /// Prompts with sampled completions.
    pub sampled: u32,
    /// Prompts with rewards.
    pub scored: u32,
    /// Prompts with a measured conflict.
    pub measured: u32,
    /// Prompts that were set aside.
    pub set_aside: u32,
    /// Sampled completions.
    pub completions: u64,
    /// Sampled response tokens.
    pub tokens: u64,
    /// Selected pairs.
    pub selected: u32,
}

/// Reason why an event of a prompt may not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PromptRejection {
    /// The index is too large.
    #[error("the index is beyond the prompts of the round")]
    IndexOutOfRange,
    /// The prompt was already admitted.
    #[error("the round already has it")]
    AlreadyAdmitted,
    /// Two prompts have the same index.
    #[error("another prompt has the same index")]
    IndexTaken,
    /// The prompt does not wait for completions.
    #[error("no completions are pending")]
    NoCompletionsPending,
    /// There are too many or too few completions.
    #[error("the number of completions differs from the plan")]
    WrongNumberOfCompletions,
    /// Another policy sampled.
    #[error("the completions come from another policy than the current one")]
    OtherPolicy,
    /// A log-probability is NaN or infinite.
    #[error("a log-probability is not finite")]
    LogprobNotFinite,
    /// The prompt does not wait for rewards.
    #[error("no rewards are pending")]
    NoRewardsPending,
    /// There are too many or too few rewards.
    #[error("the number of rewards differs from the number of completions")]
    WrongNumberOfRewards,
    /// Another reward model scored.
    #[error("the rewards come from another reward model than the current one")]
    OtherRewardModel,
    /// A reward is NaN or infinite.
    #[error("a reward is not finite")]
    RewardNotFinite,
    /// The prompt does not wait for its conflict.
    #[error("no conflict is pending")]
    NoConflictPending,
    /// There are too many or too few PACS.
    #[error("the number of PACS differs from the number of completions")]
    WrongNumberOfPacs,
    /// There are flags for too many or too few completions.
    #[error("the flags are not those of every completion")]
    WrongNumberOfFlags,
    /// A figure of the conflict is NaN or infinite.
    #[error("a figure of the conflict is not finite")]
    ConflictNotFinite,
    /// The prompt was not admitted.
    #[error("the round does not have it")]
    Unknown,
    /// The prompt is done.
    #[error("the prompt is already measured or set aside")]
    AlreadyDone,
}

/// The plan and the current models, with which completions and rewards must agree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpectedModels<'a> {
    /// Completions per prompt.
    pub(crate) samples: u32,
    /// Fingerprint of the current policy.
    pub(crate) policy: &'a str,
    /// Fingerprint of the current reward model.
    pub(crate) reward_model: &'a str,
}

/// A prompt with a measured conflict.
pub(crate) struct MeasuredPrompt<'a> {
    /// The place of the prompt in the prompt file.
    pub(crate) index: u32,
    pub(crate) prompt_id: &'a PromptId,
    pub(crate) conflict: &'a Conflict,
    pub(crate) rewards: &'a [f64],
    pub(crate) flags: &'a [Vec<Flag>],
}

/// The prompts of a round, with their progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Prompts {
    /// By place in the prompt file: selection then breaks ties alike for every order of arrival.
    entries: Vec<Option<(PromptId, PromptProgress)>>,
    /// Not part of a snapshot.
    #[serde(skip)]
    places: HashMap<PromptId, usize>,
    counts: RoundCounts,
}

impl Prompts {
    pub(crate) fn new(expected: u32) -> Self {
        let counts = RoundCounts { expected, ..RoundCounts::default() };
        Self { entries: Vec::new(), places: HashMap::new(), counts }
    }

    /// Restores the fields that a snapshot leaves out.
    pub(crate) fn index(&mut self) {
        let named = self.entries.iter().enumerate();
        self.places = named.filter_map(|(place, prompt)| Some((prompt.as_ref()?.0.clone(), place))).collect();
    }

    /// Numbers of prompts by progress. The number of selected pairs is 0.
    pub(crate) fn counts(&self) -> RoundCounts {
        self.counts
    }

    /// Whether every prompt is measured or set aside.
    pub(crate) fn is_complete(&self) -> bool {
        self.counts.measured + self.counts.set_aside == self.counts.expected
    }

    /// The prompts, in the order of the prompt file.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(PromptId, PromptProgress)> {
        self.entries.iter().flatten()
    }

    pub(crate) fn progress(&self, prompt_id: &PromptId) -> Option<&PromptProgress> {
        let place = *self.places.get(prompt_id)?;
        self.entries.get(place)?.as_ref().map(|(_, progress)| progress)
    }

    /// The prompts with a measured conflict, in the order of the prompt file.
    pub(crate) fn measured(&self) -> impl Iterator<Item = MeasuredPrompt<'_>> {
        (0_u32..).zip(&self.entries).filter_map(|(index, prompt)| {
            let (prompt_id, PromptProgress::Measured { conflict, rewards, flags }) = prompt.as_ref()? else {
                return None;
            };
            Some(MeasuredPrompt { index, prompt_id, conflict, rewards, flags })
        })
    }

    /// The reward of a measured completion; NaN if it has no reward.
    pub(crate) fn reward(&self, prompt_id: &PromptId, completion: u32) -> f64 {
        let Some(PromptProgress::Measured { rewards, .. }) = self.progress(prompt_id) else {
            return f64::NAN;
        };
        rewards.get(completion as usize).copied().unwrap_or(f64::NAN)
    }

    /// Checks whether an event of a prompt may happen.
    pub(crate) fn decide(
        &self,
        expected: ExpectedModels<'_>,
        event: &PromptEvent,
    ) -> Result<(), PromptRejection> {
        match event {
            PromptEvent::Admitted(e) => self.decide_admitted(e),
            PromptEvent::Sampled(e) => self.decide_sampled(expected, e),
            PromptEvent::Scored(e) => self.decide_scored(expected, e),
            PromptEvent::Measured(e) => self.decide_measured(e),
            PromptEvent::SetAside(e) => match self.progress(&e.prompt_id) {
                None => Err(PromptRejection::Unknown),
                Some(PromptProgress::Measured { .. } | PromptProgress::SetAside(_)) => {
                    Err(PromptRejection::AlreadyDone)
                }
                Some(_) => Ok(()),
            },
        }
    }

    fn decide_admitted(&self, e: &PromptAdmitted) -> Result<(), PromptRejection> {
        if e.index >= self.counts.expected {
            return Err(PromptRejection::IndexOutOfRange);
        }
        if self.places.contains_key(&e.prompt.prompt_id) {
            return Err(PromptRejection::AlreadyAdmitted);
        }
        match self.entries.get(e.index as usize) {
            Some(Some(_)) => Err(PromptRejection::IndexTaken),
            _ => Ok(()),
        }
    }

    fn decide_sampled(
        &self,
        expected: ExpectedModels<'_>,
        e: &CompletionsSampled,
    ) -> Result<(), PromptRejection> {
        if self.progress(&e.prompt.prompt_id) != Some(&PromptProgress::Admitted) {
            return Err(PromptRejection::NoCompletionsPending);
        }
        if e.completions.len() != expected.samples as usize {
            return Err(PromptRejection::WrongNumberOfCompletions);
        }
        if e.policy != expected.policy {
            return Err(PromptRejection::OtherPolicy);
        }
        if e.completions.iter().any(|completion| !completion.logprob.is_finite()) {
            return Err(PromptRejection::LogprobNotFinite);
        }
        Ok(())
    }

    fn decide_scored(&self, expected: ExpectedModels<'_>, e: &RewardsScored) -> Result<(), PromptRejection> {
        match self.progress(&e.prompt_id) {
            Some(PromptProgress::Sampled(n)) if *n == e.rewards.len() => {}
            Some(PromptProgress::Sampled(_)) => return Err(PromptRejection::WrongNumberOfRewards),
            _ => return Err(PromptRejection::NoRewardsPending),
        }
        if e.reward_model != expected.reward_model {
            return Err(PromptRejection::OtherRewardModel);
        }
        if e.rewards.iter().any(|reward| !reward.is_finite()) {
            return Err(PromptRejection::RewardNotFinite);
        }
        Ok(())
    }

    fn decide_measured(&self, e: &ConflictMeasured) -> Result<(), PromptRejection> {
        match self.progress(&e.prompt_id) {
            Some(PromptProgress::Scored(rewards)) if rewards.len() == e.conflict.pacs.len() => {
                if !e.flags.is_empty() && e.flags.len() != rewards.len() {
                    return Err(PromptRejection::WrongNumberOfFlags);
                }
                if e.conflict.is_finite() { Ok(()) } else { Err(PromptRejection::ConflictNotFinite) }
            }
            Some(PromptProgress::Scored(_)) => Err(PromptRejection::WrongNumberOfPacs),
            _ => Err(PromptRejection::NoConflictPending),
        }
    }

    /// Applies an event of a prompt.
    pub(crate) fn evolve(&mut self, event: &PromptEvent) {
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
                let rewards = match self.progress(&e.prompt_id) {
                    Some(PromptProgress::Scored(rewards)) => rewards.clone(),
                    _ => Vec::new(),
                };
                self.advance(
                    &e.prompt_id,
                    PromptProgress::Measured {
                        conflict: e.conflict.clone(),
                        rewards,
                        flags: e.flags.clone(),
                    },
                );
            }
            PromptEvent::SetAside(e) => {
                self.counts.set_aside += 1;
                self.advance(&e.prompt_id, PromptProgress::SetAside(e.step));
            }
        }
    }

    fn admit(&mut self, e: &PromptAdmitted) {
        let place = e.index as usize;
        if e.index >= self.counts.expected.min(PROMPTS_MAX) {
            return;
        }
        if self.entries.len() <= place {
            self.entries.resize(place + 1, None);
        }
        self.entries[place] = Some((e.prompt.prompt_id.clone(), PromptProgress::Admitted));
        self.places.insert(e.prompt.prompt_id.clone(), place);
        self.counts.admitted += 1;
    }

    fn advance(&mut self, prompt_id: &PromptId, progress: PromptProgress) {
        let place = self.places.get(prompt_id).copied();
        if let Some(Some(entry)) = place.and_then(|place| self.entries.get_mut(place)) {
            entry.1 = progress;
        }
    }

    /// Returns the cause of a prompt's next event: the prompt's last event or, for its admission, the event
    /// that opened the round.
    pub(crate) fn cause(&self, opened: EventId, event: &PromptEvent) -> Option<EventId> {
        match event {
            PromptEvent::Admitted(_) => Some(opened),
            PromptEvent::Sampled(_)
            | PromptEvent::Scored(_)
            | PromptEvent::Measured(_)
            | PromptEvent::SetAside(_) => {
                let place = *self.places.get(event.prompt_id())?;
                last_id(opened, place, &self.entries.get(place)?.as_ref()?.1)
            }
        }
    }

    /// Returns the events that wait for a step: the last event of each unfinished prompt. While prompts are
    /// missing, also the event that opened the round.
    pub(crate) fn unanswered(&self, opened: EventId) -> impl Iterator<Item = EventId> {
        let entries = self.entries.iter().enumerate();
        let prompts = entries.filter_map(move |(place, entry)| last_id(opened, place, &entry.as_ref()?.1));
        let admits = self.counts.admitted < self.counts.expected;
        admits.then_some(opened).into_iter().chain(prompts)
    }
}

/// The id of the last event of an unfinished prompt.
fn last_id(opened: EventId, place: usize, progress: &PromptProgress) -> Option<EventId> {
    let index = u32::try_from(place).ok()?;
    match progress {
        PromptProgress::Admitted => Some(admitted_id(opened, index)),
        PromptProgress::Sampled(_) => Some(sampled_id(opened, index)),
        PromptProgress::Scored(_) => Some(scored_id(opened, index)),
        PromptProgress::Measured { .. } | PromptProgress::SetAside(_) => None,
    }
}

fn admitted_id(opened: EventId, prompt_index: u32) -> EventId {
    opened.caused(EventType::PromptAdmitted.name(), prompt_index)
}

/// The id of the completions of a prompt.
pub(crate) fn sampled_id(opened: EventId, prompt_index: u32) -> EventId {
    admitted_id(opened, prompt_index).caused(EventType::CompletionsSampled.name(), 0)
}

fn scored_id(opened: EventId, prompt_index: u32) -> EventId {
    sampled_id(opened, prompt_index).caused(EventType::RewardsScored.name(), 0)
}
