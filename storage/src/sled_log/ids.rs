//! The index of event ids: at which position an event lies.
//!
//! Ids are spread evenly, so a key for each would touch a page of its own with every event. Here ids share values: a hash table
//! that grows one bucket at a time (linear hashing: W. Litwin 1980, *Linear hashing: a new tool for file and table addressing*).
//! With n buckets, 2^l ≤ n < 2^(l+1), an id is in the bucket that the last l + 1 bits of its hash name, or the last l where there
//! is no such bucket yet. The next bucket, n, takes its ids from bucket n − 2^l.
//!
//! A reader may see the tree of one commit with the number of buckets of the one before. So the ids that a new bucket takes stay
//! in the old one, too, until a later commit writes that again; and a reader that finds nothing looks whether buckets were added
//! meanwhile.
//!
//! A bucket is a frame of entries: hash:u32 and position:u64, little-endian. The hash says no more than that the event is worth
//! looking at.

use std::collections::BTreeMap;

use dissent_domain::event::EventId;
use dissent_domain::log::LogError;
use sled::Tree;

use super::reader::read_error;
use super::{keys, record};

/// Ids of a bucket, on average: 8, 16 and 32 are equally fast to append to; fewer make more keys, more make larger writes.
const IDS_PER_BUCKET: u64 = 16;
const ENTRY_BYTES: usize = 12;
/// Far more than chance puts into one bucket.
const ENTRIES_MAX: usize = record::PAYLOAD_BYTES_MAX / ENTRY_BYTES;

/// Where an event with some hash lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    hash: u32,
    pub(super) position: u64,
}

fn hash(id: EventId) -> u32 {
    crc32c::crc32c(id.0.as_bytes())
}

/// How many buckets a log of so many events has.
fn wanted(events: u64) -> u32 {
    u32::try_from((events / IDS_PER_BUCKET).max(1)).unwrap_or(u32::MAX)
}

/// The bucket of a hash where there are so many, at least one.
fn bucket_of(hash: u32, buckets: u32) -> u32 {
    let level = buckets.ilog2();
    let low = hash & low_bits(level + 1);
    if low < buckets { low } else { hash & low_bits(level) }
}

fn low_bits(count: u32) -> u32 {
    1_u32.checked_shl(count).map_or(u32::MAX, |power| power - 1)
}

/// Buckets in the tree.
fn count(tree: &Tree) -> Result<u32, LogError> {
    let Some(last) = tree.scan_prefix(keys::IDS).next_back() else { return Ok(0) };
    let (key, _) = last.map_err(read_error)?;
    keys::parse_bucket(&key)
        .and_then(|last| last.checked_add(1))
        .ok_or_else(|| LogError::Corrupt(format!("the key of a bucket of ids cannot be read: {key:02x?}")))
}

/// The positions at which an event with this id may lie.
pub(super) fn positions(tree: &Tree, id: EventId) -> Result<Vec<u64>, LogError> {
    let hash = hash(id);
    let mut buckets = 0;
    loop {
        let now = count(tree)?;
        if now == buckets {
            return Ok(Vec::new());
        }
        buckets = now;
        let entries = load(tree, bucket_of(hash, buckets))?;
        let found: Vec<u64> =
            entries.iter().filter(|entry| entry.hash == hash).map(|entry| entry.position).collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
}

/// The keys and values that add events to the index; the log has `events` with them.
pub(super) fn update(
    tree: &Tree,
    events: u64,
    new: impl Iterator<Item = (EventId, u64)>,
) -> Result<Vec<keys::KeyValue>, LogError> {
    let before = count(tree)?;
    let buckets = wanted(events).max(before);
    let mut table = Table { tree, before, changed: BTreeMap::new() };
    for number in before..buckets {
        let entries = match number {
            0 => Vec::new(),
            _ => {
                let parent = number - (1 << number.ilog2());
                let of_child = |entry: &&Entry| bucket_of(entry.hash, number + 1) == number;
                table.bucket(parent)?.iter().filter(of_child).copied().collect()
            }
        };
        table.changed.insert(number, entries);
    }
    for (id, position) in new {
        let hash = hash(id);
        table.bucket(bucket_of(hash, buckets))?.push(Entry { hash, position });
    }
    table.changed.into_iter().map(|(number, entries)| encode(number, &entries)).collect()
}

/// The buckets, and those of them that a commit writes.
struct Table<'a> {
    tree: &'a Tree,
    /// Buckets before the commit.
    before: u32,
    changed: BTreeMap<u32, Vec<Entry>>,
}

impl Table<'_> {
    /// A bucket, without the ids that others took from it before this commit.
    fn bucket(&mut self, number: u32) -> Result<&mut Vec<Entry>, LogError> {
        use std::collections::btree_map::Entry::{Occupied, Vacant};
        match self.changed.entry(number) {
            Occupied(known) => Ok(known.into_mut()),
            Vacant(place) => {
                let mut entries = load(self.tree, number)?;
                entries.retain(|entry| bucket_of(entry.hash, self.before) == number);
                Ok(place.insert(entries))
            }
        }
    }
}

fn load(tree: &Tree, number: u32) -> Result<Vec<Entry>, LogError> {
    let damaged = |what: &str| LogError::Corrupt(format!("bucket {number} of the id index: {what}"));
    let key = keys::bucket(number);
    let value = tree.get(key).map_err(read_error)?.ok_or_else(|| damaged("it is missing"))?;
    parse(&key, &value).map_err(|what| damaged(&what))
}

/// The entries of every bucket; those that moved on to another bucket occur in both.
pub(super) fn all(tree: &Tree) -> impl Iterator<Item = Result<Vec<Entry>, LogError>> {
    tree.scan_prefix(keys::IDS).map(|bucket| {
        let (key, value) = bucket.map_err(read_error)?;
        let damaged = |what| LogError::Corrupt(format!("a bucket of the id index, {key:02x?}: {what}"));
        parse(&key, &value).map_err(damaged)
    })
}

fn parse(key: &[u8], value: &[u8]) -> Result<Vec<Entry>, String> {
    let payload = record::unframe(key, value)?;
    let (entries, rest) = payload.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err("its length is wrong".to_owned());
    }
    let entry = |&[h0, h1, h2, h3, ref position @ ..]: &[u8; ENTRY_BYTES]| Entry {
        hash: u32::from_le_bytes([h0, h1, h2, h3]),
        position: u64::from_le_bytes(*position),
    };
    Ok(entries.iter().map(entry).collect())
}

fn encode(number: u32, entries: &[Entry]) -> Result<keys::KeyValue, LogError> {
    if entries.len() > ENTRIES_MAX {
        return Err(LogError::Invalid(format!(
            "{} event ids fall into one bucket of the index, which holds {ENTRIES_MAX}: they are not spread as ids are",
            entries.len()
        )));
    }
    let mut payload = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for entry in entries {
        payload.extend_from_slice(&entry.hash.to_le_bytes());
        payload.extend_from_slice(&entry.position.to_le_bytes());
    }
    let key = keys::bucket(number);
    let value = record::frame(&key, &payload);
    Ok((key.to_vec(), value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn tree() -> Tree {
        (*sled::Config::new().temporary(true).open().unwrap()).clone()
    }

    fn id(number: u64) -> EventId {
        EventId(Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_le_bytes()))
    }

    fn add(tree: &Tree, numbers: std::ops::RangeInclusive<u64>) {
        let events = *numbers.end();
        for (key, value) in update(tree, events, numbers.map(|number| (id(number), number))).unwrap() {
            tree.insert(key, value).unwrap();
        }
    }

    #[test]
    fn a_bucket_takes_its_ids_from_one_other() {
        for buckets in 1..200_u32 {
            let parent = buckets - (1_u32 << buckets.ilog2());
            for hash in (0..u32::MAX).step_by(7_654_321) {
                let (before, after) = (bucket_of(hash, buckets), bucket_of(hash, buckets + 1));
                assert!(before < buckets && (after == before || (before, after) == (parent, buckets)));
            }
        }
        assert_eq!(bucket_of(u32::MAX, u32::MAX), u32::MAX >> 1, "there is no bucket of all ones");
    }

    #[test]
    fn a_reader_of_the_commit_before_finds_its_events() {
        let tree = tree();
        add(&tree, 1..=500);
        let before = count(&tree).unwrap();
        add(&tree, 501..=1000);
        assert!(count(&tree).unwrap() > before);
        for number in 1..=500 {
            let hash = hash(id(number));
            let seen = load(&tree, bucket_of(hash, before)).unwrap();
            assert!(seen.iter().any(|entry| entry.position == number), "{number}");
        }
    }

    #[test]
    fn ids_that_all_hash_alike_are_refused() {
        let tree = tree();
        let same = (1..=u64::try_from(ENTRIES_MAX).unwrap() + 1).map(|position| (id(0), position));
        let error = update(&tree, 1, same).unwrap_err();
        assert!(matches!(&error, LogError::Invalid(what) if what.contains("one bucket")), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn every_id_is_found_however_they_came(commits in prop::collection::vec(1..400_u64, 1..12)) {
            let tree = tree();
            let mut events = 0;
            for commit in commits {
                add(&tree, events + 1..=events + commit);
                events += commit;
            }
            for number in 1..=events {
                prop_assert_eq!(positions(&tree, id(number)).unwrap(), vec![number]);
            }
            prop_assert_eq!(positions(&tree, id(events + 1)).unwrap(), Vec::<u64>::new());
            let longest = all(&tree).map(|bucket| bucket.unwrap().len()).max().unwrap();
            prop_assert!(longest < 200, "{} ids in one bucket", longest);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(parse(b"x1234", &bytes).is_err());
        }
    }
}
