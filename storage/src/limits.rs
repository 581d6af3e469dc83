//! The limits of appends and records, for every implementation of the log.

use dissent_domain::event::NewEvent;
use dissent_domain::log::{Append, LogError};

/// Largest body of one event, in bytes.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Maximum number of events in one append.
pub const APPEND_EVENTS_MAX: usize = 10_000;
/// Maximum number of bytes of bodies in one append. An append is written as a whole, so it must fit in memory
/// several times over.
pub const APPEND_BYTES_MAX: usize = 128 << 20;
/// Largest record of a subscription, in bytes.
pub const CURSOR_BYTES_MAX: usize = 7_490;
/// Longest name of a subscription, in bytes.
pub(crate) const GROUP_BYTES_MAX: usize = 256;
/// Longest name of an actor or an event type, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 1024;

/// Checks an append against the limits.
pub(crate) fn check_append(append: &Append) -> Result<(), LogError> {
    at_most("append: number of events", append.events.len(), APPEND_EVENTS_MAX, "events")?;
    let mut total = 0;
    for event in &append.events {
        check_event(event)?;
        total += event.body.len();
    }
    at_most("append: size of the bodies", total, APPEND_BYTES_MAX, "bytes")
}

fn check_event(event: &NewEvent) -> Result<(), LogError> {
    for (what, name) in [("actor", &event.actor), ("event type", &event.event_type)] {
        at_most(&format!("event {}: length of the {what}", event.id), name.len(), NAME_BYTES_MAX, "bytes")?;
    }
    if event.body.len() > BODY_BYTES_MAX {
        let what = format!("event {}: size of the body", event.id);
        let hint = "store large data as an artifact and name it in the event";
        let allowed = format!("at most {BODY_BYTES_MAX} bytes; {hint}");
        return Err(LogError::OutOfRange { what, value: event.body.len() as u64, allowed });
    }
    Ok(())
}

/// Checks a subscription's record against the limits.
pub(crate) fn check_cursor(group: &str, record: &[u8]) -> Result<(), LogError> {
    if group.is_empty() {
        let what = "subscription: length of the name".to_owned();
        return Err(LogError::OutOfRange { what, value: 0, allowed: "at least 1 byte".to_owned() });
    }
    at_most("subscription: length of the name", group.len(), GROUP_BYTES_MAX, "bytes")?;
    at_most(&format!("subscription {group:?}: size of the record"), record.len(), CURSOR_BYTES_MAX, "bytes")
}

fn at_most(what: &str, value: usize, max: usize, unit: &str) -> Result<(), LogError> {
    if value <= max {
        return Ok(());
    }
    let (what, value) = (what.to_owned(), value as u64);
    Err(LogError::OutOfRange { what, value, allowed: format!("at most {max} {unit}") })
}
