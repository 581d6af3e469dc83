//! A broker that delivers at least once and in any order, like RabbitMQ. It has a queue for each step and a
//! queue of proposals.

use std::collections::BTreeMap;

use dissent_domain::event::{NewEvent, StepName};
use dissent_domain::id::ExperimentId;

use crate::random::Random;

#[derive(Debug, Clone)]
pub(crate) struct Proposal {
    pub(crate) experiment: ExperimentId,
    pub(crate) events: Vec<NewEvent>,
}

/// A queue: ready messages, and messages held by a session. A session is one connection of one process.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    ready: Vec<T>,
    taken: BTreeMap<u64, (u64, T)>,
    tags: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { ready: Vec::new(), taken: BTreeMap::new(), tags: 0 }
    }
}

impl<T: Clone> Queue<T> {
    pub(crate) fn publish(&mut self, message: T) {
        self.ready.push(message);
    }

    /// Delivers one of the first few messages.
    pub(crate) fn take(&mut self, session: u64, random: &mut Random) -> Option<(u64, T)> {
        if self.ready.is_empty() {
            return None;
        }
        let message = self.ready.remove(random.below(self.ready.len().min(4)));
        self.tags += 1;
        self.taken.insert(self.tags, (session, message.clone()));
        Some((self.tags, message))
    }

    /// Has no effect if another session holds the message.
    pub(crate) fn ack(&mut self, tag: u64) {
        self.taken.remove(&tag);
    }

    pub(crate) fn release(&mut self, tag: u64) {
        self.ready.extend(self.taken.remove(&tag).map(|(_, message)| message));
    }

    /// Ends a session: its messages are redelivered.
    pub(crate) fn end(&mut self, session: u64) {
        let (ended, held): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.taken).into_iter().partition(|(_, (of, _))| *of == session);
        self.taken = held;
        self.ready.extend(ended.into_values().map(|(_, message)| message));
    }

    /// Duplicates a ready message.
    pub(crate) fn duplicate(&mut self, random: &mut Random) {
        if !self.ready.is_empty() {
            let message = self.ready[random.below(self.ready.len())].clone();
            self.ready.insert(random.below(self.ready.len()), message);
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Broker {
    /// Queues of positions of events.
    pub(crate) events: BTreeMap<StepName, Queue<usize>>,
    pub(crate) proposals: Queue<Proposal>,
}

impl Broker {
    /// Publishes an event to every step that consumes its type.
    pub(crate) fn relay(&mut self, position: usize, event_type: &str) {
        for step in StepName::ALL {
            if step.consumes().iter().any(|kind| kind.name() == event_type) {
                self.events.entry(step).or_default().publish(position);
            }
        }
    }

    pub(crate) fn of(&mut self, step: StepName) -> &mut Queue<usize> {
        self.events.entry(step).or_default()
    }

    pub(crate) fn end(&mut self, session: u64) {
        self.events.values_mut().for_each(|queue| queue.end(session));
        self.proposals.end(session);
    }
}
