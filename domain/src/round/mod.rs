//! A round: fan-out over its prompts, fan-in to a selection, and learning.

mod focus;
pub(crate) mod ids;
pub(crate) mod pairing;
pub(crate) mod prompts;
pub(crate) mod selection;

use serde::{Deserialize, Serialize};

pub use prompts::{PROMPTS_MAX, PromptProgress, PromptRejection, RoundCounts};

use self::prompts::Prompts;
use self::selection::RoundSelection;
use crate::due::Due;
use crate::event::{
    Event, EventId, FeedbackEvent, FeedbackRequested, PromptEvent, RoundClosed, RoundEvaluated, RoundEvent,
    TrainingEvent,
};
use crate::id::PromptId;
use crate::learning::Learning;
use crate::plan::Plan;

/// The state of one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    number: u32,
    /// The id of the event that opened it. Not part of a snapshot:
    /// [`Experiment`](crate::experiment::Experiment) restores it.
    #[serde(skip, default = "unknown_id")]
    opened: EventId,
    prompts: Prompts,
    selected: u32,
    evaluated: Option<RoundEvaluated>,
    learning: Learning,
    closed: bool,
}

impl Round {
    /// A new round that expects this many prompts; `opened` is the id of the event that opened it.
    #[must_use]
    pub fn open(opened: EventId, number: u32, expected: u32) -> Self {
        Self {
            number,
            opened,
            prompts: Prompts::new(expected),
            selected: 0,
            evaluated: None,
            learning: Learning::default(),
            closed: false,
        }
    }

    /// Restores the fields that a snapshot leaves out.
    pub(crate) fn index(&mut self, opened: EventId) {
        self.opened = opened;
        self.prompts.index();
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
        RoundCounts { selected: self.selected, ..self.prompts.counts() }
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
        self.prompts.iter()
    }

    /// The prompts with their rules.
    pub(crate) fn prompt_states(&self) -> &Prompts {
        &self.prompts
    }

    /// Whether every prompt is measured or set aside: the fan-in.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.prompts.is_complete()
    }

    /// Applies an event of one of its prompts.
    pub(crate) fn evolve_prompt(&mut self, event: &PromptEvent) {
        self.prompts.evolve(event);
    }

    /// Applies an event of the round itself.
    pub(crate) fn evolve_round(&mut self, event: &RoundEvent) {
        match event {
            RoundEvent::PairSelected(_) => self.selected += 1,
            RoundEvent::Evaluated(e) => self.evaluated = Some(e.clone()),
            RoundEvent::Closed(_) => self.closed = true,
            // The experiment keeps these.
            RoundEvent::Opened(_) | RoundEvent::RewardHackingSuspected(_) | RoundEvent::StopDecided(_) => {}
        }
    }

    /// Applies an event of the round's feedback.
    pub(crate) fn evolve_feedback(&mut self, event: &FeedbackEvent) {
        let reward = |e: &FeedbackRequested, completion| self.prompts.reward(&e.prompt_id, completion);
        self.learning.evolve_feedback(event, |e| [reward(e, e.first), reward(e, e.second)]);
    }

    /// Applies an event of one of the round's trainings.
    pub(crate) fn evolve_training(&mut self, event: &TrainingEvent) {
        self.learning.evolve_training(self.opened, event);
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
        let selection = RoundSelection::of(plan, self.number, &self.prompts);
        let mut events: Vec<Event> = selection.pairs().map(Event::from).collect();
        if plan.learning.is_some() {
            events.extend(selection.comparisons().map(Event::from));
        }
        events.push(selection.evaluation(&self.prompts).into());
        if plan.learning.is_none() {
            events.push(RoundClosed { round: self.number }.into());
        }
        events
    }
}

fn unknown_id() -> EventId {
    EventId(uuid::Uuid::nil())
}
