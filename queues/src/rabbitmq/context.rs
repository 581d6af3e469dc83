//! The tracing context of a message: a few short strings in one header.

use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::topology::{long, short};
use super::window::Message;
use crate::delivery::MessageContext;

const HEADER: &str = "context";
/// Limits of a context: entries, and bytes of a name and of a value. Entries beyond these limits are
/// omitted.
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

/// Returns the context of a message; empty if it has none.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A sender may set any headers.
        #[test]
        fn contexts_of_any_headers_stay_within_the_limits(
            entries in prop::collection::btree_map("[a-z]{0,80}", (any::<bool>(), "\\PC{0,1500}"), 0..40),
        ) {
            let mut table = FieldTable::default();
            for (name, (is_text, text)) in &entries {
                let value = if *is_text { long(text) } else { AMQPValue::Boolean(true) };
                table.insert(short(name), value);
            }
            let mut headers = FieldTable::default();
            headers.insert(short(HEADER), AMQPValue::FieldTable(table));
            let context = context_of(Some(&headers));
            prop_assert!(context.len() <= ENTRIES_MAX);
            for (name, value) in &context {
                prop_assert!(fits(name, value));
                prop_assert_eq!(&entries[name], &(true, value.clone()));
            }
        }
    }

    #[test]
    fn a_context_is_carried_without_its_oversized_entries() {
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
}
