//! The one decision over every proposal: which of its events are new, whether they may happen, and the state after them.
//!
//! A [`Ledger`] is ahead of the disk: it holds what was decided, durable or not. Whoever writes the log drops it when a write
//! fails, and rebuilds it from the log.
//!
//! Proposals come from processes that nobody vouches for. What is in an event is checked by the rules; that it is where it
//! belongs — of the one cause that it can have, under the one id, in the one order — is checked here, so that what is accepted
//! is what a replay accepts. What cannot be checked is a plausible figure that is wrong.

mod origin;

use std::collections::HashSet;

use crate::decision::Rejection;
use crate::event::{Event, EventId, NewEvent, Recorded, decode, follow_from};
use crate::experiment::Experiment;
use crate::id::ExperimentId;
use crate::log::{Append, ExpectedVersion};
use crate::operator::{OperatorCommand, recorded_as};
use crate::replay::{Replay, ReplayError};

/// Ids of decided events that are remembered before it is looked up which of them are durable.
const UNDURABLE_MIN: usize = 4096;

/// The state of an experiment as its journal decided it.
#[derive(Debug, Default)]
pub struct Ledger {
    experiment: Experiment,
    version: u64,
    /// Decided here and possibly not yet durable: the log does not know them, and they are not to be decided again.
    undurable: HashSet<EventId>,
    /// How many of those are remembered before they are looked up again.
    undurable_max: usize,
    /// What the coordinator has to propose, with ids, while nothing else has changed.
    conclusion: Option<Vec<(EventId, Event)>>,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It may happen, and the ledger counts on it: to be appended now.
    Accepted(Accepted),
    /// The rules say no, and nothing has changed: why, for a person to read.
    Rejected(String),
}

/// An accepted proposal.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// All its events, those that the log has already among them: it answers with those.
    pub append: Append,
    /// What is new in it.
    pub fresh: Vec<Event>,
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
    /// The state, with all that was decided.
    #[must_use]
    pub fn experiment(&self) -> &Experiment {
        &self.experiment
    }

    /// The version of the last event that was decided; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The events that wait for what a step makes of them, people and the coordinator aside. Where nothing has happened for
    /// longer than any step takes, whoever had them in hand acknowledged them and said nothing that the rules accept: they
    /// are to be delivered again.
    #[must_use]
    pub fn unanswered(&self) -> Vec<EventId> {
        origin::unanswered(&self.experiment)
    }

    /// Takes up the next event of a history that is written elsewhere.
    ///
    /// # Errors
    /// If it does not follow what is known, or cannot be read.
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

    /// Decides events that were proposed together: all of them are accepted, or none. `is_known` says whether the log
    /// has an event of this id, durably; `time_us` is stamped on them.
    ///
    /// # Errors
    /// As `is_known`.
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
        let concludes = fresh.iter().any(|(_, event)| is_conclusion(event));
        let fits = if concludes { self.fits_conclusion(&fresh, &is_known)? } else { fit_together(&fresh) };
        if let Err(reason) = fits {
            return Ok(Decision::Rejected(reason.to_owned()));
        }
        self.forget_durable(&is_known)?;
        let expected = ExpectedVersion::Exact(self.version);
        let fresh = self.accept(fresh, concludes);
        let events = proposed.iter().map(|event| NewEvent { time_us, ..event.clone() }).collect();
        let append = Append { experiment: experiment.clone(), expected, events };
        Ok(Decision::Accepted(Accepted { append, fresh }))
    }

    /// Decides an operator's order. What it gives is to be appended now: the ledger counts on it. None: it is so already, and
    /// nothing is to be done.
    ///
    /// # Errors
    /// Why it cannot be followed; nothing has changed then.
    pub fn command(&mut self, command: &OperatorCommand, time_us: u64) -> Result<Option<Append>, Rejection> {
        let Some(event) = self.experiment().command_event(command)? else { return Ok(None) };
        let plan = self.experiment().plan().ok_or(Rejection::NotStarted)?;
        let experiment = plan.experiment.clone();
        let new = recorded_as(EventId::of_experiment(&experiment), &event, time_us)
            .map_err(|_| Rejection::Command("its words cannot be written"))?;
        let expected = ExpectedVersion::Exact(self.version());
        self.take_command(new.id, &event);
        Ok(Some(Append { experiment, expected, events: vec![new] }))
    }

    /// Whether an event may happen, and is where it belongs.
    fn check(&self, experiment: &ExperimentId, new: &NewEvent) -> Result<Event, String> {
        let event = decode(&new.event_type, new.schema_version, &new.body).map_err(|e| e.to_string())?;
        self.experiment.decide(&event).map_err(|rejection| rejection.to_string())?;
        if is_conclusion(&event) {
            self.experiment.decide_conclusion().map_err(|rejection| rejection.to_string())?;
        } else {
            origin::check(&self.experiment, experiment, new, &event)?;
        }
        Ok(event)
    }

    /// Whether the coordinator's conclusions are those that are due, from the first that is missing on.
    fn fits_conclusion<E>(
        &mut self,
        fresh: &[Fresh],
        is_known: impl Fn(EventId) -> Result<bool, E>,
    ) -> Result<Result<(), &'static str>, E> {
        if self.conclusion.is_none() {
            self.conclusion = self.experiment.due().map(|due| {
                let events = follow_from(due.cause, "", 0, &due.events).unwrap_or_default();
                events.iter().map(|event| event.id).zip(due.events).collect()
            });
        }
        let due = self.conclusion.as_deref().unwrap_or_default();
        let first = fresh.first().map(|(id, _)| id);
        let Some(at) = due.iter().position(|(id, _)| Some(id) == first) else {
            return Ok(Err("it is not what is due"));
        };
        if !due.get(at..).is_some_and(|rest| rest.starts_with(fresh)) {
            return Ok(Err("it is not what is due"));
        }
        let before = at.checked_sub(1).and_then(|before| due.get(before));
        let in_order = match before {
            Some((id, _)) => self.undurable.contains(id) || is_known(*id)?,
            None => true,
        };
        Ok(if in_order { Ok(()) } else { Err("something else is due before it") })
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

    /// Counts on an order that was decided.
    fn take_command(&mut self, id: EventId, event: &Event) {
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
            // Where the disk is far behind, it is looked up less often.
            self.undurable_max = 2 * self.undurable.len();
        }
        Ok(())
    }
}

/// Whether events that no conclusion is among may be proposed together. Each was decided against the state before all
/// of them, so no two may be about the same.
fn fit_together(fresh: &[Fresh]) -> Result<(), &'static str> {
    if fresh.len() < 2 {
        return Ok(());
    }
    let mut prompts = HashSet::with_capacity(fresh.len());
    // Their places differ, or their ids would not.
    let differ = fresh.iter().all(|(_, event)| {
        if let Event::PromptAdmitted(e) = event { prompts.insert(&e.prompt.prompt_id) } else { false }
    });
    if differ { Ok(()) } else { Err("only prompts, each once, are proposed several at a time") }
}

/// Whether only the coordinator comes to it, from the state alone.
fn is_conclusion(event: &Event) -> bool {
    match event {
        Event::RoundOpened(_)
        | Event::PairSelected(_)
        | Event::FeedbackRequested(_)
        | Event::RoundEvaluated(_)
        | Event::FeedbackSettled(_)
        | Event::TrainingRequested(_)
        | Event::EvaluationRequested(_)
        | Event::RewardHackingSuspected(_)
        | Event::StopDecided(_)
        | Event::RoundClosed(_)
        | Event::ExperimentFinished(_) => true,
        Event::ExperimentStarted(_)
        | Event::ExperimentForked(_)
        | Event::ExperimentPaused(_)
        | Event::ExperimentResumed(_)
        | Event::ExperimentCancelled(_)
        | Event::PromptAdmitted(_)
        | Event::CompletionsSampled(_)
        | Event::RewardsScored(_)
        | Event::ConflictMeasured(_)
        | Event::PromptSetAside(_)
        | Event::FeedbackReceived(_)
        | Event::TrainingStarted(_)
        | Event::TrainingProgressed(_)
        | Event::TrainingLeaseExpired(_)
        | Event::RewardModelRefined(_)
        | Event::PolicyTuned(_)
        | Event::PolicyEvaluated(_) => false,
    }
}
