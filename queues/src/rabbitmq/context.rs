//! What travels beside a message, for tracing: a few short strings, in a header of their own.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use dissent_domain::event::EventId;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::topology::{long, short};
use super::window::Message;
use crate::delivery::MessageContext;

const HEADER: &str = "context";
/// Most entries, and the most bytes of a name and of a value; what is beyond is left out.
const ENTRIES_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 1024;

fn fits(name: &str, value: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && value.len() <= VALUE_BYTES_MAX
}

/// Adds a context to a message.
pub(super) fn add_context(mut message: Message, context: &MessageContext) -> Message {
    let mut table = FieldTable::default();
    for (name, value) in context.iter().filter(|(name, value)| fits(name, value)).take(ENTRIES_MAX) {
        table.insert(short(name), long(value));
    }
    if !table.inner().is_empty() {
        message.headers.insert(HEADER.to_owned(), AMQPValue::FieldTable(table));
    }
    message
}

/// The context of a message; empty if it has none.
pub(super) fn context_of(headers: Option<&FieldTable>) -> MessageContext {
    let Some(AMQPValue::FieldTable(table)) = headers.and_then(|headers| headers.inner().get(HEADER)) else {
        return MessageContext::new();
    };
    let text = |(name, value): (&ShortString, &AMQPValue)| {
        Some((name.to_string(), value.as_long_string().map(LongString::to_string)?))
    };
    table
        .inner()
        .iter()
        .filter_map(text)
        .filter(|(name, value)| fits(name, value))
        .take(ENTRIES_MAX)
        .collect()
}

/// The contexts of events that were proposed lately: an event that follows is relayed with the context in which it was
/// proposed. In memory only: after a restart a trace is cut, nothing else.
#[derive(Debug)]
pub(super) struct Contexts {
    most: usize,
    of_event: BTreeMap<EventId, MessageContext>,
    order: VecDeque<EventId>,
}

impl Contexts {
    pub(super) fn new(most: usize) -> Self {
        Self { most, of_event: BTreeMap::new(), order: VecDeque::new() }
    }

    pub(super) fn note(&mut self, events: impl Iterator<Item = EventId>, context: &MessageContext) {
        if context.is_empty() {
            return;
        }
        for event in events {
            if self.of_event.insert(event, context.clone()).is_none() {
                self.order.push_back(event);
            }
        }
        while self.order.len() > self.most {
            if let Some(oldest) = self.order.pop_front() {
                self.of_event.remove(&oldest);
            }
        }
    }

    pub(super) fn of(&self, event: EventId) -> MessageContext {
        self.of_event.get(&event).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dissent_domain::id::ExperimentId;

    #[test]
    fn a_context_travels_and_what_is_too_long_stays() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        let given = [("traceparent", "00-1-2-01"), ("tracestate", long.as_str())];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let message = Message::to_queue("q", "id".to_owned(), Vec::new());
        let message = add_context(message, &given.into_iter().collect());
        let mut headers = FieldTable::default();
        for (name, value) in message.headers {
            headers.insert(short(&name), value);
        }
        let context = context_of(Some(&headers));
        assert_eq!(context.get("traceparent").map(String::as_str), Some("00-1-2-01"));
        assert_eq!(context.len(), 1);
    }

    #[test]
    fn the_oldest_contexts_are_forgotten() {
        let root = EventId::of_experiment(&ExperimentId::new("x").unwrap());
        let mut contexts = Contexts::new(2);
        let context: MessageContext = [("a".to_owned(), "b".to_owned())].into_iter().collect();
        contexts.note((0..3).map(|index| root.caused("e", index)), &context);
        assert!(contexts.of(root.caused("e", 0)).is_empty());
        assert_eq!(contexts.of(root.caused("e", 2)), context);
    }
}
