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
    let count = append.events.len();
    if count > APPEND_EVENTS_MAX {
        return Err(LogError::Invalid(format!(
            "an append of {count} events is too large: at most {APPEND_EVENTS_MAX} are allowed"
        )));
    }
    let mut total = 0;
    for event in &append.events {
        check_event(event)?;
        total += event.body.len();
    }
    if total > APPEND_BYTES_MAX {
        return Err(LogError::Invalid(format!(
            "an append of {total} bytes is too large: at most {APPEND_BYTES_MAX} are allowed"
        )));
    }
    Ok(())
}

fn check_event(event: &NewEvent) -> Result<(), LogError> {
    for (what, name) in [("actor", &event.actor), ("event type", &event.event_type)] {
        if name.len() > NAME_BYTES_MAX {
            return Err(LogError::Invalid(format!(
                "the {what} of event {} has {} bytes: at most {NAME_BYTES_MAX} are allowed",
                event.id,
                name.len()
            )));
        }
    }
    if event.body.len() > BODY_BYTES_MAX {
        return Err(LogError::Invalid(format!(
            "the body of event {} has {} bytes: at most {BODY_BYTES_MAX} are allowed; store large data as an \
             artifact and name it in the event",
            event.id,
            event.body.len()
        )));
    }
    Ok(())
}

/// Checks a subscription's record against the limits.
pub(crate) fn check_cursor(group: &str, record: &[u8]) -> Result<(), LogError> {
    if group.is_empty() || group.len() > GROUP_BYTES_MAX {
        return Err(LogError::Invalid(format!(
            "a subscription name of {} bytes is out of range: use 1 to {GROUP_BYTES_MAX}",
            group.len()
        )));
    }
    if record.len() > CURSOR_BYTES_MAX {
        return Err(LogError::Invalid(format!(
            "the record of subscription {group:?} has {} bytes: at most {CURSOR_BYTES_MAX} are allowed",
            record.len()
        )));
    }
    Ok(())
}
