//! The key space of the one tree. Everything an append touches lies in it, because sled is atomic within
//! one tree only.
//!
//! | key | value |
//! |---|---|
//! | `m` | meta record: format version, identity of the log |
//! | `e` position:u64 part:u16 | one part of an event's record |
//! | `i` event id:16 | position:u64 |
//! | `s` experiment `\0` version:u64 | position:u64 |
//! | `g` subscription | its cursor |
//!
//! Numbers in keys are big-endian, so that keys sort as numbers do. `\0` ends an experiment's name: no name
//! contains it, and it sorts before every character that does occur, so streams sort by name.

use dissent_domain::event::EventId;
use dissent_domain::id::ExperimentId;

pub(super) const META: &[u8] = b"m";
pub(super) const EVENTS: &[u8] = b"e";
pub(super) const IDS: &[u8] = b"i";
pub(super) const STREAMS: &[u8] = b"s";
pub(super) const CURSORS: &[u8] = b"g";

/// Bytes of an event key.
pub(super) const EVENT_KEY_BYTES: usize = 11;

/// Where a part of an event's record lies.
pub(super) fn event(position: u64, part: u16) -> [u8; EVENT_KEY_BYTES] {
    let mut key = [0; EVENT_KEY_BYTES];
    key[0] = EVENTS[0];
    key[1..9].copy_from_slice(&position.to_be_bytes());
    key[9..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The position and part that an event key names.
pub(super) fn parse_event(key: &[u8]) -> Option<(u64, u16)> {
    let rest = key.strip_prefix(EVENTS)?;
    let (position, part) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*position), u16::from_be_bytes(part.try_into().ok()?)))
}

/// Where an event id's position lies.
pub(super) fn id(id: EventId) -> [u8; 17] {
    let mut key = [0; 17];
    key[0] = IDS[0];
    key[1..].copy_from_slice(id.0.as_bytes());
    key
}

/// Where the position of a stream's event lies.
pub(super) fn stream(experiment: &ExperimentId, version: u64) -> Vec<u8> {
    let mut key = stream_prefix(experiment);
    key.extend_from_slice(&version.to_be_bytes());
    key
}

/// What all keys of one stream begin with.
pub(super) fn stream_prefix(experiment: &ExperimentId) -> Vec<u8> {
    let name = experiment.as_str().as_bytes();
    let mut key = Vec::with_capacity(name.len() + 10);
    key.extend_from_slice(STREAMS);
    key.extend_from_slice(name);
    key.push(0);
    key
}

/// The experiment and version that a stream key names.
pub(super) fn parse_stream(key: &[u8]) -> Option<(ExperimentId, u64)> {
    let rest = key.strip_prefix(STREAMS)?;
    let (rest, version) = rest.split_last_chunk::<8>()?;
    let (end, name) = rest.split_last()?;
    if *end != 0 {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some((ExperimentId::new(name).ok()?, u64::from_be_bytes(*version)))
}

/// Where a subscription's cursor lies.
pub(super) fn cursor(group: &str) -> Vec<u8> {
    [CURSORS, group.as_bytes()].concat()
}

/// The position that an index entry holds.
pub(super) fn parse_position(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        let experiment = ExperimentId::new("a-b.c").unwrap();
        assert_eq!(parse_event(&event(7, 3)), Some((7, 3)));
        assert_eq!(parse_stream(&stream(&experiment, 9)), Some((experiment, 9)));
    }

    #[test]
    fn streams_sort_by_name_then_version() {
        let [a, ab, b] = ["a", "a-b", "b"].map(|name| ExperimentId::new(name).unwrap());
        let keys = [stream(&a, 1), stream(&a, 256), stream(&ab, 1), stream(&b, 1)];
        assert!(keys.is_sorted());
    }

    #[test]
    fn foreign_keys_are_refused() {
        for key in [&b""[..], b"e", b"e123", b"i1", b"s", b"s\0", b"s.\0\0\0\0\0\0\0\0\0", b"x12345678"] {
            assert_eq!(parse_event(key), None);
            assert_eq!(parse_stream(key), None);
        }
    }
}
