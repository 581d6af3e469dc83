//! A fork: a new experiment that shares the history of another one and continues with other settings.
//!
//! The stream of a fork is complete. The stream repeats every shared event under the fork's name, with ids
//! derived from the new causes. Then [`ExperimentForked`] names the origin and the plan that applies from
//! there on. Earlier decisions are checked against the origin's plan.

use std::collections::HashMap;

use crate::event::{
    CodecError, Event, EventId, ExperimentEvent, ExperimentForked, NewEvent, Recorded, Stage,
};
use crate::event_ids::forked_id;
use crate::experiment::Experiment;
use crate::id::ExperimentId;
use crate::plan::{LearningPlan, Plan};
use crate::rejection::{ForkRejection, Rejection};
use crate::replay::{Numbering, Replay, ReplayError, derived_id};
use crate::round::Round;

/// The actor that `experiment.forked` names.
const ACTOR: &str = "fork";

/// Reason why a fork is impossible.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The shared history contradicts the rules.
    #[error("cannot share the history")]
    Past(#[from] ReplayError),
    /// The cause of an event is not in the shared history.
    #[error("cannot share the history: the cause of event {position} is not in it")]
    Cause {
        /// Its position in the log.
        position: u64,
    },
    /// A body cannot be read or written.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The position is inside a decision of several events.
    #[error(
        "position {position} is inside a decision: {left} of its events follow; fork before or after the decision"
    )]
    WithinDecision {
        /// The position.
        position: u64,
        /// Number of events of the decision after the position.
        left: usize,
    },
    /// The plan contradicts the shared history.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// Builds a fork from the shared events, one by one.
#[derive(Debug)]
pub struct ForkBuilder {
    name: ExperimentId,
    replay: Replay,
    /// The fork's id of each shared event, by its id in the origin.
    ids: HashMap<EventId, EventId>,
    numbering: Numbering,
    position: u64,
}

impl ForkBuilder {
    /// An empty fork of this name.
    #[must_use]
    pub fn new(name: ExperimentId) -> Self {
        let numbering = Numbering::default();
        Self { name, replay: Replay::verifying(), ids: HashMap::new(), numbering, position: 0 }
    }

    /// Returns the next event of the origin's stream as the fork records it.
    ///
    /// # Errors
    /// If the event contradicts the rules, or its cause is not shared.
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

    /// The state after the shared events.
    #[must_use]
    pub fn experiment(&self) -> &Experiment {
        self.replay.experiment()
    }

    /// Checks whether the plan of this event may apply after the shared events.
    ///
    /// # Errors
    /// If the shared history ends inside a decision, or the plan contradicts it.
    pub fn check(&self, forked: &ExperimentForked) -> Result<(), ForkError> {
        let left = self.replay.undecided();
        if left > 0 {
            return Err(ForkError::WithinDecision { position: self.position, left });
        }
        Ok(self.replay.experiment().decide_fork(forked)?)
    }

    /// Whether the shared events end between two decisions.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.replay.undecided() == 0
    }

    /// Number of shared events so far.
    #[must_use]
    pub fn shared(&self) -> u64 {
        self.replay.version()
    }

    /// Returns the event after the shared ones, from which `plan` applies. The plan names the fork.
    ///
    /// # Errors
    /// If the shared history ends inside a decision, or the plan contradicts it.
    pub fn fork(self, origin: ExperimentId, plan: Plan, time_us: u64) -> Result<NewEvent, ForkError> {
        let forked =
            ExperimentForked { origin, position: self.position, shared: self.replay.version(), plan };
        self.check(&forked)?;
        let id = forked_id(&self.name, self.numbering.forks());
        let cause = EventId::of_experiment(&self.name);
        Ok(NewEvent::new(id, Some(cause), ACTOR, time_us, &forked.into())?)
    }
}

/// Puts the fork's name into an event.
fn renamed(mut event: Event, name: &ExperimentId) -> Event {
    if let Event::Experiment(e) = &mut event {
        match e {
            ExperimentEvent::Started(e) => e.plan.experiment = name.clone(),
            ExperimentEvent::Forked(e) => e.plan.experiment = name.clone(),
            ExperimentEvent::Finished(_) => {}
        }
    }
    event
}

impl Experiment {
    /// Checks whether another plan may apply from here on. It must agree with all recorded events.
    ///
    /// # Errors
    /// The first setting that contradicts the history, and the reason.
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
        let always = Some(ForkRejection::Always);
        let sampled = open.filter(|round| round.counts().sampled > 0).map(|_| ForkRejection::Sampled);
        let selected = open.and_then(Round::evaluation).map(|_| ForkRejection::Selected);
        let fewer = (now.rounds as usize) < rounds;
        let fixed = [
            ("experiment.name", was.experiment != now.experiment, always),
            ("prompts", was.prompts != now.prompts, always),
            ("policy", was.policy != now.policy, always),
            ("reward", was.reward != now.reward, always),
            ("reading_rules", was.reading_rules != now.reading_rules, always),
            ("feedback", was.learning.is_some() != now.learning.is_some(), always),
            ("experiment.rounds", fewer, Some(ForkRejection::FewerRounds)),
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
        let (old, new) = (&was.feedback, &now.feedback);
        let trained = |stage, reason: ForkRejection| {
            open.and_then(|round| round.learning().training(stage)).map(|_| reason)
        };
        let selected = open.and_then(Round::evaluation).map(|_| ForkRejection::ComparisonsRequested);
        let settled =
            open.and_then(|round| round.learning().settled()).map(|_| ForkRejection::FeedbackSettled);
        let evaluated = self.evaluation_is_requested().then_some(ForkRejection::Evaluated);
        first_fixed(&[
            ("feedback.opponent", old.opponent != new.opponent, selected),
            ("feedback.source", old.source != new.source, selected),
            ("feedback.audit", old.audit.total_cmp(&new.audit).is_ne(), selected),
            ("feedback.degenerate", old.degenerate != new.degenerate, selected),
            ("feedback.focus", old.focus != new.focus, selected),
            ("feedback.overlap", old.overlap != new.overlap, settled),
            ("feedback.budget", old.budget != new.budget, settled),
            (
                "refinement",
                was.refinement != now.refinement,
                trained(Stage::Reward, ForkRejection::RewardModelTrained),
            ),
            ("tuning", was.tuning != now.tuning, trained(Stage::Policy, ForkRejection::PolicyTrained)),
            ("evaluation", was.evaluation != now.evaluation, evaluated),
        ])
    }
}

/// Rejects the first setting that differs and is fixed. An entry has the key, whether the setting differs,
/// and the reason why it is fixed.
fn first_fixed(settings: &[(&'static str, bool, Option<ForkRejection>)]) -> Result<(), Rejection> {
    let refused =
        settings.iter().find_map(|(key, differs, why)| why.filter(|_| *differs).map(|why| (*key, why)));
    refused.map_or(Ok(()), |(key, reason)| Err(Rejection::Fork { key, reason }))
}
