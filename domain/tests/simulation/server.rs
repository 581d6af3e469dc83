//! The process that has the log. Its parts: a log on a simulated disk, the [`Ledger`] of the journal, the
//! relay, the coordinator, the admission of prompts, and the watch over leases.

use std::collections::BTreeSet;
use std::convert::Infallible;

use dissent_domain::event::{
    Event, EventId, EventType, ExperimentStarted, NewEvent, Recorded, RoundOpened, Stage, StepName,
    TrainingLeaseExpired, follow_from,
};
use dissent_domain::event_ids::round_opened_id;
use dissent_domain::journal::{Decision, Ledger};
use dissent_domain::learning::TrainingProgress;
use dissent_domain::log::{Append, ExpectedVersion};
use dissent_domain::operator::{Action, OperatorCommand};
use dissent_domain::replay::Replay;

use crate::broker::{Broker, Proposal};
use crate::models;
use crate::random::Random;
use crate::worker::LEASE_MS;

/// Idle time before redelivery, longer than any step of a worker.
const IDLE_MS: u64 = 3 * LEASE_MS;

/// The state that survives a crash.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) events: Vec<Recorded>,
    /// Durable cursor of the relay: number of events known to be published.
    relayed: usize,
}

pub(crate) struct Server {
    pub(crate) disk: Disk,
    pub(crate) session: u64,
    pub(crate) ledger: Ledger,
    /// Appended events that are not synced.
    pending: Vec<Recorded>,
    /// Accepted proposals that are acknowledged once they are durable.
    waiting: Vec<(Option<u64>, Vec<EventId>)>,
    relayed: usize,
    heartbeat_ms: u64,
    /// The version, and the time at which it was reached.
    progressed: (u64, u64),
    /// Ids of acknowledged events.
    pub(crate) acknowledged: BTreeSet<EventId>,
    pub(crate) rejected: BTreeSet<String>,
}

impl Server {
    pub(crate) fn new(disk: Disk, session: u64, now_ms: u64) -> Self {
        let mut replay = Replay::new();
        disk.events.iter().for_each(|recorded| replay.apply(recorded).unwrap());
        let relayed = disk.relayed;
        Self {
            disk,
            session,
            ledger: replay.into(),
            pending: Vec::new(),
            waiting: Vec::new(),
            relayed,
            heartbeat_ms: now_ms,
            progressed: (0, now_ms),
            acknowledged: BTreeSet::new(),
            rejected: BTreeSet::new(),
        }
    }

    /// Crashes, which loses the events that are not synced, and restarts.
    pub(crate) fn crash(&mut self, broker: &mut Broker, now_ms: u64) {
        broker.end(self.session);
        let kept = (std::mem::take(&mut self.acknowledged), std::mem::take(&mut self.rejected));
        *self = Self::new(std::mem::take(&mut self.disk), self.session, now_ms);
        (self.acknowledged, self.rejected) = kept;
        Self::begin(broker);
    }

    /// Proposes the start of the experiment. A second proposal has no effect.
    pub(crate) fn begin(broker: &mut Broker) {
        let plan = models::plan();
        let id = EventId::of_experiment(&plan.experiment);
        let started =
            NewEvent::new(id, None, "cli", 0, &ExperimentStarted { plan, program: None }.into()).unwrap();
        broker.proposals.publish(Proposal { experiment: models::experiment(), events: vec![started] });
    }

    /// Decides one proposal.
    pub(crate) fn decide(&mut self, broker: &mut Broker, random: &mut Random, now_ms: u64) {
        let Some((tag, proposal)) = broker.proposals.take(self.session, random) else { return };
        if proposal.experiment != models::experiment() {
            return broker.proposals.ack(tag);
        }
        let is_known = |id| Ok::<_, Infallible>(self.disk.events.iter().any(|known| known.event.id == id));
        let Ok(decision) =
            self.ledger.decide(&proposal.experiment, &proposal.events, now_ms * 1000, is_known);
        match decision {
            Decision::Rejected(reason) => {
                self.rejected.insert(reason.to_string());
                broker.proposals.ack(tag);
            }
            Decision::Accepted(accepted) => {
                let heartbeats = [EventType::TrainingStarted, EventType::TrainingProgressed];
                if accepted.fresh.iter().any(|event| heartbeats.contains(&event.event_type())) {
                    self.heartbeat_ms = now_ms;
                }
                self.append(Some(tag), accepted.append);
            }
        }
    }

    /// Appends like an event log: each id once, at the expected version.
    fn append(&mut self, tag: Option<u64>, append: Append) {
        let version = self.disk.events.len() + self.pending.len();
        let ids = append.events.iter().map(|event| event.id).collect();
        for event in append.events {
            let known = self.disk.events.iter().chain(&self.pending).any(|known| known.event.id == event.id);
            if !known {
                let expected = append.expected == ExpectedVersion::Exact(version as u64);
                assert!(expected, "the ledger is at {:?}, the log at {version}", append.expected);
                let position = (self.disk.events.len() + self.pending.len()) as u64 + 1;
                let experiment = models::experiment();
                self.pending.push(Recorded { position, experiment, version: position, event });
            }
        }
        self.waiting.push((tag, ids));
    }

    /// Makes appended events durable. Acknowledges them, unless the process crashes first.
    pub(crate) fn sync(&mut self, broker: &mut Broker, dies: bool, now_ms: u64) {
        self.disk.events.append(&mut self.pending);
        if dies {
            return self.crash(broker, now_ms);
        }
        for (tag, ids) in self.waiting.drain(..) {
            tag.into_iter().for_each(|tag| broker.proposals.ack(tag));
            self.acknowledged.extend(ids);
        }
    }

    /// Publishes a few durable events, and sometimes stores the cursor.
    pub(crate) fn relay(&mut self, broker: &mut Broker, random: &mut Random) {
        for _ in 0..=random.below(6) {
            let Some(recorded) = self.disk.events.get(self.relayed) else { break };
            broker.relay(self.relayed, &recorded.event.event_type);
            self.relayed += 1;
        }
        if random.percent(30) {
            self.disk.relayed = self.relayed;
        }
    }

    /// The coordinator: proposes the due events after any event.
    pub(crate) fn coordinate(&mut self, broker: &mut Broker, random: &mut Random) {
        let Some((tag, _)) = broker.of(StepName::Round).take(self.session, random) else { return };
        if let Some(due) = self.ledger.experiment().due() {
            // A long conclusion is proposed in parts, so that a pause may interrupt it.
            let events = follow_from(due.cause, StepName::Round.name(), 0, &due.events).unwrap();
            for events in events.chunks(1 + random.below(8)) {
                let (experiment, events) = (models::experiment(), events.to_vec());
                broker.proposals.publish(Proposal { experiment, events });
            }
        }
        broker.of(StepName::Round).ack(tag);
    }

    pub(crate) fn admit(&mut self, broker: &mut Broker, random: &mut Random) {
        let Some((tag, position)) = broker.of(StepName::Prompt).take(self.session, random) else { return };
        if let Ok(opened) = RoundOpened::try_from(self.disk.events[position].decode().unwrap()) {
            let cause = round_opened_id(&models::plan(), opened.round);
            propose(broker, StepName::Prompt, cause, &models::admitted(opened.round));
        }
        broker.of(StepName::Prompt).ack(tag);
    }

    /// Expires the lease of a training without heartbeats.
    pub(crate) fn watch_leases(&mut self, broker: &mut Broker, now_ms: u64) {
        let Some(round) = self.ledger.experiment().rounds().last() else { return };
        for stage in [Stage::Reward, Stage::Policy] {
            let Some(training) = round.learning().training(stage) else { continue };
            let TrainingProgress::Running { lease_ms, .. } = training.progress else { continue };
            if now_ms.saturating_sub(self.heartbeat_ms) > lease_ms {
                let (round, attempt) = (round.number(), training.attempt);
                let expired = TrainingLeaseExpired { round, stage, attempt }.into();
                propose(broker, StepName::Training, training.requested, &[expired]);
            }
        }
    }

    /// Redelivers unanswered events after an idle time: a worker has acknowledged them without a result.
    pub(crate) fn redeliver_unanswered(&mut self, broker: &mut Broker, now_ms: u64) {
        let version = self.ledger.version();
        if self.progressed.0 != version {
            self.progressed = (version, now_ms);
        }
        if now_ms.saturating_sub(self.progressed.1) <= IDLE_MS {
            return;
        }
        self.progressed.1 = now_ms;
        let waiting = self.ledger.unanswered();
        for (position, recorded) in self.disk.events.iter().enumerate() {
            if waiting.contains(&recorded.event.id) {
                broker.relay(position, &recorded.event.event_type);
            }
        }
        if let Some(due) = self.ledger.experiment().due() {
            propose(broker, StepName::Round, due.cause, &due.events);
        }
    }

    /// Gives an operator command to the journal.
    pub(crate) fn command(&mut self, action: Action, now_ms: u64) {
        let command = OperatorCommand { action, by: "operator".into(), reason: None };
        // A rejected command has no other effect.
        if let Ok(Some(append)) = self.ledger.command(&command, now_ms * 1000) {
            self.append(None, append);
        }
    }

    /// Describes the progress, for a failed assertion.
    pub(crate) fn summary(&self) -> String {
        let last = self.disk.events.last().map(|recorded| &recorded.event.event_type);
        format!(
            "{} events, the last: {last:?}\n{}",
            self.disk.events.len(),
            models::summary(self.ledger.experiment())
        )
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ledger.experiment().is_over() && self.pending.is_empty()
    }
}

pub(crate) fn propose(broker: &mut Broker, step: StepName, cause: EventId, events: &[Event]) {
    let events = follow_from(cause, step.name(), 0, events).unwrap();
    broker.proposals.publish(Proposal { experiment: models::experiment(), events });
}
