//! The keys of the only tree. All keys are in one tree, because sled is atomic within one tree only.
//!
//! | key | value |
//! |---|---|
//! | `m` | meta record: format version, identity of the log |
//! | `e` position:u64 part:u16 | one part of a block: records of events from this position on |
//! | `x` last:u64 chunk:u16 | ids of the events of a run, which ends at this position ([`super::ids`]) |
//! | `t` experiment `\0` chunk:u64 | positions of consecutive events of a stream ([`super::streams`]) |
//! | `g` subscription | its cursor |
//!
//! Numbers in keys are big-endian, so that keys sort as numbers do. `\0` ends an experiment's name. No name
//! contains it, and it sorts before every other character, so streams sort by name. Every value is a frame
//! ([`super::record`]).
//!
//! The number of keys is small, and most are written once. A page of sled holds at most 16 keys. All pages
//! have an entry in a table in memory, and replaced pages are recorded in the file.
//!
//! In the first format each event had three keys (`e`, `i` and its id, `s` and its version), or 74 bytes of
//! memory. In the second format, ids shared the buckets of a hash table, which were rewritten often: 17 to 23
//! bytes.

use dissent_domain::id::ExperimentId;

pub(super) const META: &[u8] = b"m";
pub(super) const EVENTS: &[u8] = b"e";
pub(super) const IDS: &[u8] = b"x";
pub(super) const STREAMS: &[u8] = b"t";
pub(super) const CURSORS: &[u8] = b"g";
/// The indices of the first format. Those of the second format use the present letters.
pub(super) const FIRST_FORMAT_INDICES: [&[u8]; 2] = [b"i", b"s"];

/// A key and a value to insert into the tree.
pub(super) type KeyValue = (Vec<u8>, Vec<u8>);

/// Bytes of a key of one letter and two numbers.
pub(super) const NUMBERED_BYTES: usize = 11;

fn numbered(prefix: &[u8], position: u64, part: u16) -> [u8; NUMBERED_BYTES] {
    let mut key = [0; NUMBERED_BYTES];
    key[..1].copy_from_slice(prefix);
    key[1..9].copy_from_slice(&position.to_be_bytes());
    key[9..].copy_from_slice(&part.to_be_bytes());
    key
}

fn parse_numbered(prefix: &[u8], key: &[u8]) -> Option<(u64, u16)> {
    let (position, part) = key.strip_prefix(prefix)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*position), u16::from_be_bytes(part.try_into().ok()?)))
}

/// Returns the key of a part of a block.
pub(super) fn event(position: u64, part: u16) -> [u8; NUMBERED_BYTES] {
    numbered(EVENTS, position, part)
}

/// Returns the position and part that an event key names.
pub(super) fn parse_event(key: &[u8]) -> Option<(u64, u16)> {
    parse_numbered(EVENTS, key)
}

/// Returns the key of a chunk of the run that ends at `last`.
pub(super) fn id_chunk(last: u64, chunk: u16) -> [u8; NUMBERED_BYTES] {
    numbered(IDS, last, chunk)
}

/// Returns the end of the run and the chunk that a key names.
pub(super) fn parse_id_chunk(key: &[u8]) -> Option<(u64, u16)> {
    parse_numbered(IDS, key)
}

/// Returns the key of a chunk of a stream.
pub(super) fn stream(experiment: &ExperimentId, chunk: u64) -> Vec<u8> {
    let mut key = stream_prefix(experiment);
    key.extend_from_slice(&chunk.to_be_bytes());
    key
}

/// Returns the prefix of all keys of a stream.
pub(super) fn stream_prefix(experiment: &ExperimentId) -> Vec<u8> {
    let name = experiment.as_str().as_bytes();
    let mut key = Vec::with_capacity(name.len() + 10);
    key.extend_from_slice(STREAMS);
    key.extend_from_slice(name);
    key.push(0);
    key
}

/// Returns the experiment and chunk that a stream key names.
pub(super) fn parse_stream(key: &[u8]) -> Option<(ExperimentId, u64)> {
    let rest = key.strip_prefix(STREAMS)?;
    let (rest, chunk) = rest.split_last_chunk::<8>()?;
    let (end, name) = rest.split_last()?;
    if *end != 0 {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some((ExperimentId::new(name).ok()?, u64::from_be_bytes(*chunk)))
}

/// Returns the key of a subscription's cursor.
pub(super) fn cursor(group: &str) -> Vec<u8> {
    [CURSORS, group.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        let experiment = ExperimentId::new("a-b.c").unwrap();
        assert_eq!(parse_event(&event(7, 3)), Some((7, 3)));
        assert_eq!(parse_stream(&stream(&experiment, 9)), Some((experiment, 9)));
        assert_eq!(parse_id_chunk(&id_chunk(300, 2)), Some((300, 2)));
    }

    #[test]
    fn streams_sort_by_name_then_chunk() {
        let [a, ab, b] = ["a", "a-b", "b"].map(|name| ExperimentId::new(name).unwrap());
        let keys = [stream(&a, 1), stream(&a, 256), stream(&ab, 1), stream(&b, 1)];
        assert!(keys.is_sorted());
    }

    #[test]
    fn invalid_keys_are_not_parsed() {
        for key in [&b""[..], b"e", b"e123", b"x1", b"t", b"t\0", b"t.\0\0\0\0\0\0\0\0\0", b"y12345678"] {
            assert_eq!(parse_event(key), None);
            assert_eq!(parse_stream(key), None);
            assert_eq!(parse_id_chunk(key), None);
        }
    }
}
