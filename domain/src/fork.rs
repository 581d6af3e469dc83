//! A fork: a new experiment that shares the past of another one and goes on with other settings.
//!
//! Its stream stands by itself. It begins as the origin did, under the fork's name: every shared event is recorded again, with
//! an id derived from its new causes. Then comes [`ExperimentForked`], which says where the past is from and gives the plan that
//! holds from there on. What was decided before it was decided by the origin's plan, and is checked against that.

use std::collections::HashMap;

use crate::decision::Rejection;
use crate::event::{CodecError, Event, EventId, ExperimentForked, NewEvent, Recorded, Stage};
use crate::event_ids::forked_id;
use crate::experiment::Experiment;
use crate::id::ExperimentId;
use crate::plan::{LearningPlan, Plan};
use crate::replay::{Numbering, Replay, ReplayError, derived_id};
use crate::round::Round;

/// The step that a fork's own event names as its actor.
const ACTOR: &str = "fork";

/// A fork that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The past is not one that the rules would have made.
    #[error("the past cannot be shared: {0}")]
    Past(#[from] ReplayError),
    /// An event follows from one that is not in the past.
    #[error("the past cannot be shared: event {position} follows from an event that is not in it")]
    Cause {
        /// Its position in the log.
        position: u64,
    },
    /// A body cannot be read or written.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The position lies between events that are one decision.
    #[error(
        "position {position} lies within a decision: {left} more of its events follow; fork before it or after it"
    )]
    WithinDecision {
        /// The position.
        position: u64,
        /// Events that are left of the decision.
        left: usize,
    },
    /// The plan contradicts the past.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// A fork in the making: takes the shared past in, event by event.
#[derive(Debug)]
pub struct ForkBuilder {
    name: ExperimentId,
    replay: Replay,
    /// From the ids of the origin's events to those of the fork's.
    ids: HashMap<EventId, EventId>,
    numbering: Numbering,
    position: u64,
}

impl ForkBuilder {
    /// A fork of this name with nothing in it yet.
    #[must_use]
    pub fn new(name: ExperimentId) -> Self {
        let numbering = Numbering::default();
        Self { name, replay: Replay::verifying(), ids: HashMap::new(), numbering, position: 0 }
    }

    /// The next event of the origin's stream as the fork records it.
    ///
    /// # Errors
    /// If the rules would not have made it so.
    pub fn share(&mut self, recorded: &Recorded) -> Result<NewEvent, ForkError> {
        let event = renamed(recorded.decode()?, &self.name);
        let cause = match recorded.event.causation {
            None => None,
            Some(cause) => {
                let known = self.ids.get(&cause).copied();
                Some(known.ok_or(ForkError::Cause { position: recorded.position })?)
            }
        };
        let index = self.numbering.index(&event);
        let id = derived_id(&self.name, cause, &event, index);
        let shared = NewEvent::new(id, cause, &recorded.event.actor, recorded.event.time_us, &event)?;
        self.replay.apply(&Recorded {
            position: recorded.position,
            experiment: self.name.clone(),
            version: recorded.version,
            event: shared.clone(),
        })?;
        self.ids.insert(recorded.event.id, id);
        self.position = recorded.position;
        Ok(shared)
    }

    /// The state at the end of the shared past.
    #[must_use]
    pub fn experiment(&self) -> &Experiment {
        self.replay.experiment()
    }

    /// Events shared so far.
    #[must_use]
    pub fn shared(&self) -> u64 {
        self.replay.version()
    }

    /// The event that ends the shared past: from there on `plan` holds, which names the fork.
    ///
    /// # Errors
    /// If the past ends within a decision, or the plan contradicts it.
    pub fn fork(self, origin: ExperimentId, plan: Plan, time_us: u64) -> Result<NewEvent, ForkError> {
        let left = self.replay.undecided();
        if left > 0 {
            return Err(ForkError::WithinDecision { position: self.position, left });
        }
        let forked =
            ExperimentForked { origin, position: self.position, shared: self.replay.version(), plan };
        self.replay.experiment().decide_fork(&forked)?;
        let id = forked_id(&self.name, self.numbering.forks());
        let cause = EventId::of_experiment(&self.name);
        Ok(NewEvent::new(id, Some(cause), ACTOR, time_us, &forked.into())?)
    }
}

/// An event as it is in the stream of another name.
fn renamed(mut event: Event, name: &ExperimentId) -> Event {
    if let Event::ExperimentStarted(e) = &mut event {
        e.plan.experiment = name.clone();
    } else if let Event::ExperimentForked(e) = &mut event {
        e.plan.experiment = name.clone();
    }
    event
}

impl Experiment {
    /// Whether another plan may hold from here on. It may say nothing else about what is already recorded.
    ///
    /// # Errors
    /// The first setting that contradicts what is recorded, and why.
    pub fn decide_fork(&self, e: &ExperimentForked) -> Result<(), Rejection> {
        let plan = self.plan().ok_or(Rejection::NotStarted)?;
        if self.cancelled().is_some() {
            return Err(Rejection::Cancelled);
        }
        if self.is_finished() {
            return Err(Rejection::Finished);
        }
        let open = self.rounds().last().filter(|round| !round.is_closed());
        let rounds = self.rounds().len();
        let (was, now) = (plan, &e.plan);
        let always = Some("it belongs to the past that is shared");
        let sampled = open
            .filter(|round| round.counts().sampled > 0)
            .map(|_| "completions of the open round are recorded");
        let selected =
            open.and_then(Round::evaluation).map(|_| "the selection of the open round is recorded");
        let fewer = (now.rounds as usize) < rounds;
        let fixed = [
            ("experiment.name", was.experiment != now.experiment, always),
            ("prompts", was.prompts != now.prompts, always),
            ("policy", was.policy != now.policy, always),
            ("reward", was.reward != now.reward, always),
            ("feedback", was.learning.is_some() != now.learning.is_some(), always),
            ("experiment.rounds", fewer, Some("more rounds than that were opened")),
            ("experiment.seed", was.seed != now.seed, sampled),
            ("generation", was.sampling != now.sampling, sampled),
            ("conflict.logprob", was.conflict.logprob != now.conflict.logprob, sampled),
            ("conflict", was.conflict.selection != now.conflict.selection, selected),
        ];
        first_fixed(&fixed)?;
        match (&was.learning, &now.learning) {
            (Some(was), Some(now)) => self.decide_fork_of_learning(was, now, open),
            _ => Ok(()),
        }
    }

    fn decide_fork_of_learning(
        &self,
        was: &LearningPlan,
        now: &LearningPlan,
        open: Option<&Round>,
    ) -> Result<(), Rejection> {
        let (asked, asks) = (&was.feedback, &now.feedback);
        let trained = |stage, reason| open.and_then(|round| round.learning().training(stage)).map(|_| reason);
        let selected =
            open.and_then(Round::evaluation).map(|_| "the comparisons of the open round are recorded");
        let settled = open
            .and_then(|round| round.learning().settled())
            .map(|_| "the feedback of the open round is settled");
        let evaluated = self
            .evaluation_is_requested()
            .then_some("policies were evaluated by it, and later ones are compared with them");
        first_fixed(&[
            ("feedback.opponent", asked.opponent != asks.opponent, selected),
            ("feedback.source", asked.source != asks.source, selected),
            ("feedback.overlap", asked.overlap != asks.overlap, settled),
            ("feedback.budget", asked.budget != asks.budget, settled),
            (
                "refinement",
                was.refinement != now.refinement,
                trained(Stage::Reward, "the reward model is trained by it"),
            ),
            ("tuning", was.tuning != now.tuning, trained(Stage::Policy, "the policy is trained by it")),
            ("evaluation", was.evaluation != now.evaluation, evaluated),
        ])
    }
}

/// Settings: key, whether it differs, and why it may not.
fn first_fixed(settings: &[(&'static str, bool, Option<&'static str>)]) -> Result<(), Rejection> {
    let refused =
        settings.iter().find_map(|(key, differs, why)| why.filter(|_| *differs).map(|why| (*key, why)));
    refused.map_or(Ok(()), |(key, reason)| Err(Rejection::Fork { key, reason }))
}
