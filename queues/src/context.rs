//! The contexts of recently proposed events.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use crate::lock::lock;

use dissent_domain::event::EventId;

use crate::delivery::MessageContext;

/// Maximum number of events whose context is kept.
const CONTEXTS_MAX: usize = 4096;

/// The contexts of recently proposed events: an event is delivered in the context in which it was proposed.
/// They are in memory only. A restart interrupts traces only.
#[derive(Debug)]
pub(crate) struct Contexts {
    most: usize,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    of_event: BTreeMap<EventId, MessageContext>,
    order: VecDeque<EventId>,
}

impl Default for Contexts {
    fn default() -> Self {
        Self::new(CONTEXTS_MAX)
    }
}

impl Contexts {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, noted: Mutex::default() }
    }

    /// Notes the context of events. The first context of an event stands.
    pub(crate) fn note(&self, events: impl Iterator<Item = EventId>, context: &MessageContext) {
        if context.is_empty() {
            return;
        }
        let Noted { of_event, order } = &mut *self.lock();
        for event in events {
            if let Entry::Vacant(vacant) = of_event.entry(event) {
                vacant.insert(context.clone());
                order.push_back(event);
            }
        }
        while order.len() > self.most {
            if let Some(oldest) = order.pop_front() {
                of_event.remove(&oldest);
            }
        }
    }

    pub(crate) fn of(&self, event: EventId) -> MessageContext {
        self.lock().of_event.get(&event).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        lock(&self.noted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dissent_domain::id::ExperimentId;

    #[test]
    fn an_event_keeps_its_first_context() {
        let event = EventId::of_experiment(&ExperimentId::new("x").unwrap());
        let contexts = Contexts::new(2);
        let of = |value: &str| MessageContext::from([("a".to_owned(), value.to_owned())]);
        for value in ["its own", "its proposal's"] {
            contexts.note(std::iter::once(event), &of(value));
        }
        assert_eq!(contexts.of(event), of("its own"));
    }

    #[test]
    fn the_oldest_contexts_are_dropped() {
        let root = EventId::of_experiment(&ExperimentId::new("x").unwrap());
        let contexts = Contexts::new(2);
        let context: MessageContext = [("a".to_owned(), "b".to_owned())].into_iter().collect();
        contexts.note((0..3).map(|index| root.caused("e", index)), &context);
        assert!(contexts.of(root.caused("e", 0)).is_empty());
        assert_eq!(contexts.of(root.caused("e", 2)), context);
    }
}
