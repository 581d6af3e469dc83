//! The state of one group: its fresh, delivered, failed and parked messages. Pure: time is an argument, and
//! the I/O thread does all I/O.

mod parking;
mod progress;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use dissent_domain::event::{EventType, Recorded};
use dissent_domain::id::ExperimentId;
use tokio::time::Instant;

use super::record::{OPEN_MAX, Record};
use super::status::GroupStatus;
use crate::backoff::Backoff;
use crate::broker::Subscription;
use crate::delivery::Outcome;
use crate::error::BrokerError;

/// Maximum number of consumers of a group. With more, some could never hold a message.
const MEMBERS_MAX: usize = OPEN_MAX;

/// The settings that all subscriptions of a group share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub experiment: Option<ExperimentId>,
    pub kinds: &'static [EventType],
    pub delivery_limit: u32,
    pub retry_delay: Backoff,
}

impl Rules {
    pub(super) fn of(subscription: &Subscription, retry_delay_max: Duration) -> Self {
        Self {
            experiment: subscription.experiment.clone(),
            kinds: subscription.kinds,
            delivery_limit: subscription.delivery_limit,
            retry_delay: Backoff::new(subscription.retry_delay, retry_delay_max),
        }
    }

    /// Compares type names only: bodies of other types are never decoded.
    pub(super) fn want(&self, event: &Recorded) -> bool {
        let of_experiment = self.experiment.as_ref().is_none_or(|wanted| *wanted == event.experiment);
        of_experiment && self.kinds.iter().any(|kind| kind.name() == event.event.event_type)
    }
}

/// A message that was delivered at least once and is not done.
#[derive(Debug)]
struct Unfinished {
    event: Arc<Recorded>,
    /// Failed attempts. A release or the end of the process does not count.
    failures: u32,
    redelivered: bool,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Can be delivered now.
    Ready,
    /// Can be delivered at that time.
    Delayed(Instant),
    /// Delivered and not yet settled.
    Leased,
    /// Out of attempts; waits until there is room among the parked messages. Holds the last reason.
    Spent(String),
}

#[derive(Debug)]
struct ParkedMessage {
    event: Arc<Recorded>,
    failures: u32,
    reason: String,
    leased: bool,
}

#[derive(Debug)]
struct Member {
    prefetch: usize,
    unsettled: usize,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum Lifecycle {
    Running,
    /// Delivers nothing more; deliveries can still be settled.
    Closed,
    /// The final record is stored; deliveries cannot be settled any more.
    Left,
    Failed(BrokerError),
}

/// The answer to a consumer that asks for a message.
#[derive(Debug)]
pub(super) enum NextDelivery {
    Deliver {
        event: Arc<Recorded>,
        attempt: u32,
        redelivered: bool,
    },
    /// No message now. `until` is the time of the next retry, if one is due.
    Wait {
        until: Option<Instant>,
    },
    Ended,
}

/// Work that a change causes, to be done after the group's lock is released: a waker may take the lock.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub wakers: Vec<Waker>,
    /// Wake the I/O thread.
    pub io_thread: bool,
    /// Wake the consumers of parked messages.
    pub parked: bool,
}

/// The stored progress of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The group has no record.
    New,
    /// The group's record.
    Stored(Record),
}

/// A consumer group.
#[derive(Debug)]
pub(super) struct Group {
    name: String,
    rules: Rules,
    lifecycle: Lifecycle,
    /// The stored progress, until the I/O thread has resumed from it. Nothing is delivered or stored before.
    origin: Option<Origin>,
    /// Every event up to here was read.
    read_to: u64,
    /// Number of events of the group's experiment up to `read_to`, once known.
    version: Option<u64>,
    /// Position in the stored record.
    stored_to: u64,
    /// Wanted events that were read and not yet delivered, in log order; at most two pages.
    fresh: VecDeque<Arc<Recorded>>,
    fresh_low: usize,
    open: BTreeMap<u64, Unfinished>,
    parked: BTreeMap<u64, ParkedMessage>,
    members: BTreeMap<u64, Member>,
    members_begun: u64,
    /// The record has changed since it was last stored.
    dirty: bool,
    effects: Effects,
}

impl Group {
    pub(super) fn new(name: String, rules: Rules, record: Option<Record>, page: usize) -> Self {
        Self {
            name,
            rules,
            lifecycle: Lifecycle::Running,
            origin: Some(record.map_or(Origin::New, Origin::Stored)),
            read_to: 0,
            version: None,
            stored_to: 0,
            fresh: VecDeque::new(),
            fresh_low: (page / 2).max(1),
            open: BTreeMap::new(),
            parked: BTreeMap::new(),
            members: BTreeMap::new(),
            members_begun: 0,
            dirty: false,
            effects: Effects { io_thread: true, ..Effects::default() },
        }
    }

    // ---- members

    pub(super) fn join(&mut self, rules: &Rules, prefetch: usize) -> Result<u64, BrokerError> {
        if *rules != self.rules {
            return Err(BrokerError::DifferentSettings { group: self.name.clone() });
        }
        if self.members.len() >= MEMBERS_MAX {
            let what = format!("group {:?}: number of consumers", self.name);
            return Err(BrokerError::out_of_range(what, MEMBERS_MAX + 1, format!("at most {MEMBERS_MAX}")));
        }
        let member = self.members_begun;
        self.members_begun += 1;
        self.members.insert(member, Member { prefetch, unsettled: 0, waker: None });
        Ok(member)
    }

    pub(super) fn leave(&mut self, member: u64) {
        // Every wake-up goes to all members, so none is lost with this member.
        let left = self.members.remove(&member);
        self.effects.wakers.extend(left.and_then(|member| member.waker));
    }

    /// Gives `member` its next message, or registers its waker.
    pub(super) fn take(&mut self, member: u64, now: Instant, waker: Option<&Waker>) -> NextDelivery {
        if !matches!(self.lifecycle, Lifecycle::Running) {
            return NextDelivery::Ended;
        }
        let room = self.members.get(&member).is_some_and(|m| m.unsettled < m.prefetch);
        if room && let Some(turn) = self.lease_next(now) {
            if let Some(member) = self.members.get_mut(&member) {
                member.unsettled += 1;
            }
            return turn;
        }
        self.remember_waker(member, waker);
        NextDelivery::Wait { until: if room { self.next_due() } else { None } }
    }

    fn remember_waker(&mut self, member: u64, waker: Option<&Waker>) {
        let (Some(member), Some(waker)) = (self.members.get_mut(&member), waker) else { return };
        if !member.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            // The old waker is woken once in vain. Dropping it here could run foreign code under the lock.
            self.effects.wakers.extend(member.waker.replace(waker.clone()));
        }
    }

    fn lease_next(&mut self, now: Instant) -> Option<NextDelivery> {
        let position = match self.next_open(now) {
            Some(position) => position,
            None => self.begin_next()?,
        };
        let open = self.open.get_mut(&position)?;
        open.phase = Phase::Leased;
        Some(NextDelivery::Deliver {
            event: Arc::clone(&open.event),
            attempt: open.failures.saturating_add(1),
            redelivered: open.redelivered,
        })
    }

    /// Returns the first unfinished message that can be delivered now.
    fn next_open(&self, now: Instant) -> Option<u64> {
        let deliverable = |open: &Unfinished| match open.phase {
            Phase::Ready => true,
            Phase::Delayed(due) => due <= now,
            Phase::Leased | Phase::Spent(_) => false,
        };
        self.open.iter().find(|(_, open)| deliverable(open)).map(|(&position, _)| position)
    }

    /// Moves the first fresh message to the unfinished ones, if there is room.
    fn begin_next(&mut self) -> Option<u64> {
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        let event = self.fresh.pop_front()?;
        if self.fresh.len() + 1 == self.fresh_low {
            self.effects.io_thread = true;
        }
        let position = event.position;
        let begun = Unfinished { event, failures: 0, redelivered: false, phase: Phase::Ready };
        self.open.insert(position, begun);
        self.touch();
        Some(position)
    }

    fn next_due(&self) -> Option<Instant> {
        let due = |open: &Unfinished| match open.phase {
            Phase::Delayed(due) => Some(due),
            Phase::Ready | Phase::Leased | Phase::Spent(_) => None,
        };
        self.open.values().filter_map(due).min()
    }

    /// Settles a delivery.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] after the group left.
    pub(super) fn settle(
        &mut self,
        position: u64,
        member: u64,
        outcome: Outcome,
        now: Instant,
    ) -> Result<(), BrokerError> {
        if matches!(self.lifecycle, Lifecycle::Left) {
            return Err(BrokerError::Closed);
        }
        if let Some(member) = self.members.get_mut(&member) {
            member.unsettled = member.unsettled.saturating_sub(1);
        }
        let Some(open) = self.open.get_mut(&position) else { return Ok(()) };
        open.redelivered = true;
        match outcome {
            Outcome::Done => {
                self.open.remove(&position);
            }
            Outcome::Released => open.phase = Phase::Ready,
            Outcome::Failed { reason } => {
                open.failures = open.failures.saturating_add(1);
                if open.failures >= self.rules.delivery_limit {
                    open.phase = Phase::Spent(reason);
                    self.park_spent();
                } else {
                    open.phase = Phase::Delayed(now + self.rules.retry_delay.after(open.failures));
                }
            }
        }
        self.note_end();
        self.touch();
        self.wake_members();
        Ok(())
    }

    // ---- the end

    pub(super) fn status(&self) -> GroupStatus {
        let first_open = self.open.keys().next().map_or(u64::MAX, |position| position - 1);
        GroupStatus {
            group: self.name.clone(),
            checkpoint: self.done_to().min(first_open),
            read_to: self.read_to,
            waiting: self.fresh.len(),
            unsettled: self.open.values().filter(|open| open.phase == Phase::Leased).count(),
            unfinished: self.open.len(),
            parked: self.parked.len(),
        }
    }

    /// Ends deliveries.
    pub(super) fn close(&mut self) {
        if !matches!(self.lifecycle, Lifecycle::Running) {
            return;
        }
        self.lifecycle = Lifecycle::Closed;
        self.effects.parked = true;
        self.wake_members();
    }

    /// Ends the group for good and frees its messages; returns the record to store, if it changed. A held
    /// delivery is unfinished in the record.
    pub(super) fn end(&mut self) -> Option<Record> {
        self.close();
        let record = self.final_record();
        self.lifecycle = Lifecycle::Left;
        (self.fresh, self.open, self.parked) = (VecDeque::new(), BTreeMap::new(), BTreeMap::new());
        self.wake_members();
        record
    }

    /// Ends deliveries with an error.
    pub(super) fn fail(&mut self, error: BrokerError) {
        self.lifecycle = Lifecycle::Failed(error);
        self.effects.parked = true;
        self.wake_members();
    }

    pub(super) fn failure(&self) -> Option<BrokerError> {
        match &self.lifecycle {
            Lifecycle::Failed(error) => Some(error.clone()),
            Lifecycle::Running | Lifecycle::Closed | Lifecycle::Left => None,
        }
    }

    /// Takes the effects of all changes since the last call.
    pub(super) fn effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Wakes the I/O thread when the last delivery of a closed group is settled.
    fn note_end(&mut self) {
        self.effects.io_thread |= matches!(self.lifecycle, Lifecycle::Closed) && self.is_idle();
    }

    fn touch(&mut self) {
        if !self.dirty {
            self.dirty = true;
            self.effects.io_thread = true;
        }
    }

    fn wake_members(&mut self) {
        self.effects.wakers.extend(self.members.values_mut().filter_map(|member| member.waker.take()));
    }
}

#[cfg(test)]
mod tests;
