//! The decision on proposals: which events are new, whether they may happen, and the state after them.
//!
//! A [`Ledger`] is ahead of the disk: its state has every accepted event, durable or not. The writer of the
//! log drops the ledger when a write fails, and rebuilds it from the log.
//!
//! Proposals come from untrusted processes. The rules of [`experiment`](crate::experiment) check the content
//! of an event. The ledger checks its cause, its id and its place in the sequence, so that every accepted
//! history passes a replay. A plausible but wrong figure cannot be detected.

use std::collections::HashSet;

use crate::event::{
    Event, EventId, ExperimentStarted, NewEvent, PromptAdmitted, Recorded, decode, follow_from,
};
use crate::experiment::Experiment;
use crate::id::ExperimentId;
use crate::log::{Append, ExpectedVersion};
use crate::operator::{OperatorCommand, new_event};
use crate::rejection::{CommandRejection, Rejection};
use crate::replay::{Replay, ReplayError};

/// Number of remembered ids at which the ledger looks up which of them are durable.
const UNDURABLE_MIN: usize = 4096;

/// The state of an experiment with every event that its journal has accepted.
#[derive(Debug, Default)]
pub struct Ledger {
    experiment: Experiment,
    version: u64,
    /// Accepted and possibly not durable: the log may not have them, and the ledger does not decide them
    /// again.
    undurable: HashSet<EventId>,
    /// Number of those ids at which the ledger looks them up again.
    undurable_max: usize,
    /// The due events with their ids, valid until the state changes.
    conclusion: Option<Vec<(EventId, Event)>>,
}

/// The decision on a proposal.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The proposal is accepted, and the ledger's state includes it. Append it now.
    Accepted(Accepted),
    /// The proposal is rejected, and the state is unchanged.
    Rejected(Rejection),
}

/// An accepted proposal.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// All events of the proposal. For an event that it already has, the log returns the recorded one.
    pub append: Append,
    /// The new events.
    pub fresh: Vec<Event>,
}

/// The decision on events that follow one another.
#[derive(Debug, Clone, PartialEq)]
pub enum DecisionInTurn {
    /// All are accepted, and the ledger's state includes them. Append them now.
    Accepted {
        /// The proposal.
        accepted: Accepted,
        /// Whether each proposed event is new, in order.
        is_fresh: Vec<bool>,
    },
    /// One is rejected, so none is accepted, and the state is unchanged.
    Rejected {
        /// The place of the rejected event among the proposed ones, from 0.
        place: usize,
        /// The reason.
        reason: Rejection,
    },
}

/// An event that is new, and its id.
type Fresh = (EventId, Event);

impl From<Replay> for Ledger {
    fn from(replay: Replay) -> Self {
        let version = replay.version();
        Self { experiment: replay.into_experiment(), version, ..Self::default() }
    }
}

impl Ledger {
    /// The state, with every accepted event.
    #[must_use]
    pub fn experiment(&self) -> &Experiment {
        &self.experiment
    }

    /// The version of the last accepted event; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the events that wait for a step, without those that wait for people or for the round step.
    /// After an idle time longer than any step takes, their deliveries were acknowledged without an accepted
    /// result: redeliver them.
    #[must_use]
    pub fn unanswered(&self) -> Vec<EventId> {
        self.experiment.unanswered()
    }

    /// Applies the next event of a history that another process writes.
    ///
    /// # Errors
    /// If the event's version is not the next one, or its body cannot be read.
    pub fn follow(&mut self, recorded: &Recorded) -> Result<(), ReplayError> {
        let (position, previous, found) = (recorded.position, self.version, recorded.version);
        if found != previous + 1 {
            return Err(ReplayError::Gap { position, previous, found });
        }
        let event = recorded.decode().map_err(|source| ReplayError::Body { position, source })?;
        self.experiment.evolve(&event);
        self.version = found;
        self.conclusion = None;
        Ok(())
    }

    /// Decides events that were proposed together: all of them are accepted, or none. `is_known` returns
    /// whether the log durably has an event of this id. `time_us` becomes the time of the events.
    ///
    /// # Errors
    /// As `is_known`.
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use dissent_domain::event::{EventId, NewEvent, RoundOpened};
    /// use dissent_domain::id::ExperimentId;
    /// use dissent_domain::journal::{Decision, Ledger};
    /// use dissent_domain::rejection::Rejection;
    ///
    /// let experiment = ExperimentId::new("demo").unwrap();
    /// let opened = RoundOpened { round: 0, prompts: 10 }.into();
    /// let id = EventId::of_experiment(&experiment);
    /// let proposed = [NewEvent::new(id, None, "round", 0, &opened).unwrap()];
    /// let Ok(decision) =
    ///     Ledger::default().decide(&experiment, &proposed, 0, |_| Ok::<_, Infallible>(false));
    /// assert_eq!(decision, Decision::Rejected(Rejection::NotStarted));
    /// ```
    pub fn decide<E>(
        &mut self,
        experiment: &ExperimentId,
        proposed: &[NewEvent],
        time_us: u64,
        is_known: impl Fn(EventId) -> Result<bool, E>,
    ) -> Result<Decision, E> {
        let mut fresh: Vec<Fresh> = Vec::with_capacity(proposed.len());
        let mut ids = HashSet::with_capacity(proposed.len());
        for new in proposed {
            if self.undurable.contains(&new.id) || !ids.insert(new.id) || is_known(new.id)? {
                continue;
            }
            match self.check(experiment, new) {
                Ok(event) => fresh.push((new.id, event)),
                Err(reason) => return Ok(Decision::Rejected(reason)),
            }
        }
        let concludes = fresh.iter().any(|(_, event)| event.is_conclusion());
        let checked = if concludes {
            self.check_conclusion(&fresh, &is_known)?
        } else {
            check_distinct_prompts(&fresh)
        };
        if let Err(reason) = checked {
            return Ok(Decision::Rejected(reason));
        }
        self.forget_durable(&is_known)?;
        Ok(Decision::Accepted(self.accepted(experiment, proposed, time_us, (fresh, concludes))))
    }

    /// Decides events that follow one another, such as the judgements of a file: each on the state that the
    /// earlier ones make. All of them are accepted, or none. None may be a conclusion.
    ///
    /// # Errors
    /// As `is_known`.
    pub fn decide_in_turn<E>(
        &mut self,
        experiment: &ExperimentId,
        proposed: &[NewEvent],
        time_us: u64,
        is_known: impl Fn(EventId) -> Result<bool, E>,
    ) -> Result<DecisionInTurn, E> {
        // A later event is checked on the state that the earlier ones make; a single one needs no copy.
        let before = (proposed.len() > 1).then(|| self.experiment.clone());
        let mut fresh: Vec<Fresh> = Vec::with_capacity(proposed.len());
        let mut is_fresh = Vec::with_capacity(proposed.len());
        let mut ids = HashSet::with_capacity(proposed.len());
        let mut decide = || {
            for (place, new) in proposed.iter().enumerate() {
                let is_new = !self.undurable.contains(&new.id) && ids.insert(new.id) && !is_known(new.id)?;
                is_fresh.push(is_new);
                if !is_new {
                    continue;
                }
                match self.check(experiment, new) {
                    Ok(event) if event.is_conclusion() => return Ok(Err((place, Rejection::NotTogether))),
                    Ok(event) => {
                        if before.is_some() {
                            self.experiment.evolve(&event);
                        }
                        fresh.push((new.id, event));
                    }
                    Err(reason) => return Ok(Err((place, reason))),
                }
            }
            Ok(Ok(()))
        };
        let decided = decide();
        if let Some(before) = before {
            self.experiment = before;
        }
        if let Err((place, reason)) = decided? {
            return Ok(DecisionInTurn::Rejected { place, reason });
        }
        self.forget_durable(&is_known)?;
        let accepted = self.accepted(experiment, proposed, time_us, (fresh, false));
        Ok(DecisionInTurn::Accepted { accepted, is_fresh })
    }

    /// Accepts the fresh events among the proposed ones, with the append of all of them.
    fn accepted(
        &mut self,
        experiment: &ExperimentId,
        proposed: &[NewEvent],
        time_us: u64,
        (fresh, concludes): (Vec<Fresh>, bool),
    ) -> Accepted {
        let expected = ExpectedVersion::Exact(self.version);
        let fresh = self.accept(fresh, concludes);
        let events = proposed.iter().map(|event| NewEvent { time_us, ..event.clone() }).collect();
        let append = Append { experiment: experiment.clone(), expected, events };
        Accepted { append, fresh }
    }

    /// Decides an operator command. Append the result now: the ledger's state includes it. `None`: the
    /// experiment already has that status.
    ///
    /// # Errors
    /// The reason why the state does not allow the command; the state is unchanged.
    pub fn command(&mut self, command: &OperatorCommand, time_us: u64) -> Result<Option<Append>, Rejection> {
        let Some(event) = self.experiment().command_event(command)? else { return Ok(None) };
        let plan = self.experiment().plan().ok_or(Rejection::NotStarted)?;
        let experiment = plan.experiment.clone();
        let new = new_event(EventId::of_experiment(&experiment), event.clone(), time_us)
            .map_err(|_| CommandRejection::NotEncodable)?;
        let expected = ExpectedVersion::Exact(self.version());
        self.accept_command(new.id, &event.into());
        Ok(Some(Append { experiment, expected, events: vec![new] }))
    }

    /// Checks whether an event may happen, with this cause and id.
    fn check(&self, experiment: &ExperimentId, new: &NewEvent) -> Result<Event, Rejection> {
        let event = decode(&new.event_type, new.schema_version, &new.body)?;
        if event.is_conclusion() {
            // All conclusions of the proposal are compared with the due events: see `check_conclusion`.
            self.experiment.decide_conclusion()?;
        } else {
            self.experiment.decide(&event)?;
            self.check_origin(experiment, new, &event)?;
        }
        Ok(event)
    }

    /// Checks the cause and the id of an event that the rules allow.
    fn check_origin(
        &self,
        experiment: &ExperimentId,
        new: &NewEvent,
        event: &Event,
    ) -> Result<(), Rejection> {
        if let Some(e) = event.body::<ExperimentStarted>() {
            let is_its_own = e.plan.experiment == *experiment;
            let is_first = new.causation.is_none() && new.id == EventId::of_experiment(experiment);
            return if is_its_own && is_first { Ok(()) } else { Err(Rejection::OtherExperiment) };
        }
        let event_type = event.event_type();
        let cause = self.experiment.cause(event).ok_or(Rejection::NoCause { event_type })?;
        let id = cause.causing(event, event.number().unwrap_or(0));
        if new.causation == Some(cause) && new.id == id {
            Ok(())
        } else {
            Err(Rejection::WrongCause { event_type, cause, id, found: new.id })
        }
    }

    /// Checks that conclusions are those that are due, from the first missing one on.
    fn check_conclusion<E>(
        &mut self,
        fresh: &[Fresh],
        is_known: impl Fn(EventId) -> Result<bool, E>,
    ) -> Result<Result<(), Rejection>, E> {
        if self.conclusion.is_none() {
            self.conclusion = self.experiment.due().map(|due| {
                let events = follow_from(due.cause, "", 0, &due.events).unwrap_or_default();
                events.iter().map(|event| event.id).zip(due.events).collect()
            });
        }
        let due = self.conclusion.as_deref().unwrap_or_default();
        let first = fresh.first().map(|(id, _)| id);
        let place = due.iter().position(|(id, _)| Some(id) == first);
        let place = place.filter(|&at| due.get(at..).is_some_and(|rest| rest.starts_with(fresh)));
        let Some(at) = place else { return Ok(Err(Rejection::NotDue)) };
        let before = at.checked_sub(1).and_then(|before| due.get(before));
        let in_order = match before {
            Some((id, _)) => self.undurable.contains(id) || is_known(*id)?,
            None => true,
        };
        Ok(if in_order { Ok(()) } else { Err(Rejection::NotNext) })
    }

    fn accept(&mut self, fresh: Vec<Fresh>, concludes: bool) -> Vec<Event> {
        let last = self.conclusion.as_ref().and_then(|due| due.last()).map(|(id, _)| *id);
        let is_over = fresh.iter().any(|(id, _)| Some(*id) == last);
        if !fresh.is_empty() && (!concludes || is_over) {
            self.conclusion = None;
        }
        self.version += fresh.len() as u64;
        let mut events = Vec::with_capacity(fresh.len());
        for (id, event) in fresh {
            self.undurable.insert(id);
            self.experiment.evolve(&event);
            events.push(event);
        }
        events
    }

    /// Applies the event of an accepted operator command.
    fn accept_command(&mut self, id: EventId, event: &Event) {
        self.version += 1;
        self.undurable.insert(id);
        self.experiment.evolve(event);
        self.conclusion = None;
    }

    fn forget_durable<E>(&mut self, is_known: impl Fn(EventId) -> Result<bool, E>) -> Result<(), E> {
        if self.undurable.len() > self.undurable_max.max(UNDURABLE_MIN) {
            for id in self.undurable.iter().copied().collect::<Vec<_>>() {
                if is_known(id)? {
                    self.undurable.remove(&id);
                }
            }
            // Looks up less often while the disk is far behind.
            self.undurable_max = 2 * self.undurable.len();
        }
        Ok(())
    }
}

/// Checks that events other than conclusions may be proposed together. Each was checked against the state
/// before the proposal, so no two may concern the same prompt.
fn check_distinct_prompts(fresh: &[Fresh]) -> Result<(), Rejection> {
    if fresh.len() < 2 {
        return Ok(());
    }
    let mut prompts = HashSet::with_capacity(fresh.len());
    // Their ids differ, so their indices differ too.
    let differ = fresh.iter().all(|(_, event)| {
        event.body::<PromptAdmitted>().is_some_and(|e| prompts.insert(&e.prompt.prompt_id))
    });
    if differ { Ok(()) } else { Err(Rejection::NotTogether) }
}
