//! The limits of appends and records, for every implementation of the log.

use dissent_domain::event::NewEvent;
use dissent_domain::log::{Append, LogError};

/// Largest body of one event, in bytes.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Most events in one append.
pub const APPEND_EVENTS_MAX: usize = 10_000;
/// Most bytes of bodies in one append. An append is written as a whole, so it must fit in memory several
/// times over.
pub const APPEND_BYTES_MAX: usize = 128 << 20;
/// Largest record of a subscription, in bytes.
pub const CURSOR_BYTES_MAX: usize = 7_490;
/// Longest name of a subscription, in bytes.
pub(crate) const GROUP_BYTES_MAX: usize = 256;
/// Longest name of an actor or an event type, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 1024;

/// Checks an append against the limits.
pub(crate) fn check_append(append: &Append) -> Result<(), LogError> {
    at_most("number of events in an append,", append.events.len(), APPEND_EVENTS_MAX)?;
    let mut total = 0;
    for event in &append.events {
        check_event(event)?;
        total += event.body.len();
    }
    at_most("bytes of bodies in an append,", total, APPEND_BYTES_MAX)
}

fn check_event(event: &NewEvent) -> Result<(), LogError> {
    for (what, name) in [("actor", &event.actor), ("event type", &event.event_type)] {
        at_most(&format!("bytes of the {what} of event {},", event.id), name.len(), NAME_BYTES_MAX)?;
    }
    if event.body.len() > BODY_BYTES_MAX {
        let what = format!("bytes of the body of event {},", event.id);
        let hint = "store large data as an artifact and name it in the event";
        let allowed = format!("at most {BODY_BYTES_MAX}; {hint}");
        return Err(LogError::OutOfRange { what, value: event.body.len() as u64, allowed });
    }
    Ok(())
}

/// Checks a subscription's record against the limits.
pub(crate) fn check_cursor(group: &str, record: &[u8]) -> Result<(), LogError> {
    if group.is_empty() {
        let what = "bytes of the name of a subscription,".to_owned();
        return Err(LogError::OutOfRange { what, value: 0, allowed: "at least 1".to_owned() });
    }
    at_most("bytes of the name of a subscription,", group.len(), GROUP_BYTES_MAX)?;
    at_most(&format!("bytes of the record of subscription {group:?},"), record.len(), CURSOR_BYTES_MAX)
}

fn at_most(what: &str, value: usize, max: usize) -> Result<(), LogError> {
    if value <= max {
        return Ok(());
    }
    let (what, value) = (what.to_owned(), value as u64);
    Err(LogError::OutOfRange { what, value, allowed: format!("at most {max}") })
}
