//! An experiment: its plan, and its state as a fold of its events.
//!
//! [`Experiment::decide`] says whether a proposed event may happen, [`Experiment::evolve`] makes it so and
//! cannot fail, [`Experiment::due`] says what the coordinator has to propose next. All three are pure.

use serde::{Deserialize, Serialize};

use crate::conflict::{LogprobKind, SelectionSettings};
use crate::event::{Event, EventId, EventType, ExperimentFinished, RoundOpened};
use crate::generation::SamplingParams;
use crate::id::ExperimentId;
use crate::reward::RewardKind;
use crate::round::{Rejection, Round};

/// Everything that determines an experiment. Models and prompts are named by what is in them, not by
/// where they lie, so that a moved file is no change and a changed file is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub experiment: ExperimentId,
    /// The seed of every random choice.
    pub seed: u64,
    /// Rounds to do, ≥ 1.
    pub rounds: u32,
    /// The prompts.
    pub prompts: PromptSource,
    /// The policy π.
    pub policy: PolicyPlan,
    /// The proxy reward r.
    pub reward: RewardPlan,
    /// How completions are sampled.
    pub sampling: SamplingParams,
    /// How conflict is measured, and what is selected.
    pub conflict: ConflictPlan,
}

/// The prompts of an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptSource {
    /// BLAKE3 (hex) of the artifact that holds them, as JSON lines.
    pub artifact: String,
    /// How many there are.
    pub count: u32,
}

/// Which policy answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPlan {
    /// A name for people.
    pub name: String,
    /// Fingerprint of checkpoint and adapter.
    pub fingerprint: String,
    /// How a prompt is put to it: `chat`, `raw`, or a text naming `{prompt}`.
    pub template: String,
}

/// Which reward model scores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardPlan {
    /// A name for people.
    pub name: String,
    /// Fingerprint of checkpoint, kept layers and adapter.
    pub fingerprint: String,
    /// How prompt and completion are put to it: `chat`, `raw`, or a text naming `{prompt}` and `{completion}`.
    pub template: String,
    /// Whether its score is a reward or a cost.
    pub kind: RewardKind,
}

/// How conflict is measured and selected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConflictPlan {
    /// Which log-probability is compared with the reward.
    pub logprob: LogprobKind,
    /// Which pairs are chosen for feedback.
    pub selection: SelectionSettings,
}

/// The state of an experiment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Experiment {
    plan: Option<Plan>,
    rounds: Vec<Round>,
    finished: bool,
}

impl Experiment {
    /// Its plan; none before it started.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Its rounds so far.
    #[must_use]
    pub fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    /// Whether it did everything it planned.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether this event may happen now. Several events proposed together are each decided against the
    /// state before all of them.
    ///
    /// # Errors
    /// Why it may not.
    pub fn decide(&self, event: &Event) -> Result<(), Rejection> {
        let Some(plan) = &self.plan else {
            let starts = matches!(event, Event::ExperimentStarted(_));
            return if starts { Ok(()) } else { Err(Rejection::NotStarted) };
        };
        if self.finished {
            return Err(Rejection::Finished);
        }
        match event {
            Event::ExperimentStarted(_) => Err(Rejection::AlreadyStarted),
            Event::RoundOpened(opened) => self.decide_open(plan, opened),
            Event::PromptAdmitted(e) => self.open_round(e.round)?.decide_admit(e),
            Event::CompletionsSampled(e) => self.open_round(e.round)?.decide_sampled(plan, e),
            Event::RewardsScored(e) => self.open_round(e.round)?.decide_scored(plan, e),
            Event::ConflictMeasured(e) => self.open_round(e.round)?.decide_measured(e),
            Event::PromptSetAside(e) => self.open_round(e.round)?.decide_set_aside(e),
            Event::PairSelected(e) => self.open_round(e.round)?.decide_selected(e),
            Event::RoundEvaluated(e) => self.open_round(e.round)?.decide_complete(),
            Event::RoundClosed(e) => self.open_round(e.round)?.decide_complete(),
            Event::ExperimentFinished(e) => self.decide_finish(plan, e),
        }
    }

    fn decide_open(&self, plan: &Plan, opened: &RoundOpened) -> Result<(), Rejection> {
        let next = self.next_round();
        let previous_closed = self.rounds.last().is_none_or(Round::is_closed);
        if opened.round == next
            && previous_closed
            && next < plan.rounds
            && opened.prompts == plan.prompts.count
        {
            Ok(())
        } else {
            Err(Rejection::Round { round: opened.round, reason: "it is not the next one to open" })
        }
    }

    fn decide_finish(&self, plan: &Plan, finished: &ExperimentFinished) -> Result<(), Rejection> {
        let all_closed = self.rounds.last().is_some_and(Round::is_closed);
        if all_closed && self.next_round() == plan.rounds && finished.rounds == plan.rounds {
            Ok(())
        } else {
            Err(Rejection::Round { round: finished.rounds, reason: "rounds are left to do" })
        }
    }

    fn open_round(&self, round: u32) -> Result<&Round, Rejection> {
        match self.rounds.last() {
            Some(open) if open.number() == round && !open.is_closed() => Ok(open),
            _ => Err(Rejection::Round { round, reason: "it is not the open round" }),
        }
    }

    fn next_round(&self) -> u32 {
        self.rounds.last().map_or(0, |round| round.number() + 1)
    }

    /// Applies an event that happened. Facts are facts: one that does not fit changes nothing.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::ExperimentStarted(e) => self.plan = Some(e.plan.clone()),
            Event::RoundOpened(e) => self.rounds.push(Round::open(e.round, e.prompts)),
            Event::ExperimentFinished(_) => self.finished = true,
            Event::PromptAdmitted(_)
            | Event::CompletionsSampled(_)
            | Event::RewardsScored(_)
            | Event::ConflictMeasured(_)
            | Event::PromptSetAside(_)
            | Event::PairSelected(_)
            | Event::RoundEvaluated(_)
            | Event::RoundClosed(_) => {
                if let Some(round) = self.rounds.last_mut() {
                    round.evolve(event);
                }
            }
        }
    }

    /// What the coordinator proposes next, all together; none while there is nothing to do or the round
    /// waits for its prompts.
    #[must_use]
    pub fn due(&self) -> Option<Due> {
        let plan = self.plan.as_ref().filter(|_| !self.finished)?;
        let due = |cause, events| Some(Due { cause, events });
        match self.rounds.last() {
            Some(round) if !round.is_closed() => {
                let events = round.conclusion(plan);
                if events.is_empty() { None } else { due(round_opened_id(plan, round.number()), events) }
            }
            last => {
                let cause = match last {
                    Some(round) => round_closed_id(plan, round.number()),
                    None => EventId::of_experiment(&plan.experiment),
                };
                let round = self.next_round();
                due(
                    cause,
                    vec![if round < plan.rounds {
                        RoundOpened { round, prompts: plan.prompts.count }.into()
                    } else {
                        ExperimentFinished { rounds: plan.rounds }.into()
                    }],
                )
            }
        }
    }
}

/// Events that the coordinator has to propose together.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// What they follow from: the same whatever the order in which a round's prompts were done.
    pub cause: EventId,
    /// The events.
    pub events: Vec<Event>,
}

/// The id of the event that opens this round.
#[must_use]
pub fn round_opened_id(plan: &Plan, round: u32) -> EventId {
    (0..round).fold(
        EventId::of_experiment(&plan.experiment).caused(EventType::RoundOpened.name(), 0),
        |opened, _| opened.caused(EventType::RoundClosed.name(), 0).caused(EventType::RoundOpened.name(), 0),
    )
}

/// The id of the event that finishes the experiment.
#[must_use]
pub fn finished_id(plan: &Plan) -> EventId {
    round_closed_id(plan, plan.rounds.saturating_sub(1)).caused(EventType::ExperimentFinished.name(), 0)
}

fn round_closed_id(plan: &Plan, round: u32) -> EventId {
    round_opened_id(plan, round).caused(EventType::RoundClosed.name(), 0)
}
