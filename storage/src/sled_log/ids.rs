//! The index of event ids: the position of each event.
//!
//! Ids are distributed evenly. In an ordered index each new event would touch another page. sled's file would
//! grow with the replaced pages, and its memory with their bookkeeping. So this index writes each entry once.
//!
//! The newest ids are in memory. When their number reaches [`super::SledOptions::run_events`], they are
//! written in order as a run. [`RUNS_MERGED`] runs are merged into a long one, which never changes. So
//! opening reads few events, and a lookup asks few runs. Log-structured merge trees keep an index in this way
//! (P. O'Neil et al. 1996). Runs follow from the events and are not part of a commit. After a crash, missing
//! runs are rebuilt from the events.
//!
//! A filter in memory shows whether a run may hold an id. It is a binary fuse filter of 9 bits per event (T.
//! M. Graf and D. Lemire 2022). Its answer is wrong for one id in 256.
//!
//! An entry is a u64: a 32-bit hash of the id, and the event's offset from the beginning of its run. An equal
//! hash makes the event a candidate only. A run is stored in chunks: frames of [`ENTRIES_PER_CHUNK`] entries
//! in ascending order, little-endian. The keys of the chunks name the end of the run.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dissent_domain::event::{EventId, Recorded};
use dissent_domain::log::{LogError, LogPart};
use sled::{Batch, Tree};
use xorf::{BinaryFuse8, Filter};

use super::error::read_error;
use super::reader::Reader;
use super::{keys, record};

/// Number of runs that become one. A long run has at least this number of times the entries of a short one.
const RUNS_MERGED: usize = 16;
/// Entries of a chunk: 4 KiB.
const ENTRIES_PER_CHUNK: usize = 512;
const ENTRY_BYTES: usize = size_of::<u64>();

/// 32 bits of BLAKE3. With a checksum, an attacker could make many ids of one hash.
fn hash(id: EventId) -> u32 {
    let [first, second, third, fourth, ..] = *blake3::hash(id.0.as_bytes()).as_bytes();
    u32::from_le_bytes([first, second, third, fourth])
}

fn entry(hash: u32, offset: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(offset)
}

fn hash_of(entry: u64) -> u32 {
    u32::try_from(entry >> 32).unwrap_or(u32::MAX)
}

fn offset_of(entry: u64) -> u64 {
    entry & u64::from(u32::MAX)
}

/// The index of event ids.
pub(super) struct Ids {
    run_events: u64,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    runs: Vec<Run>,
    /// Entries of the events after the last run.
    recent: BTreeSet<u64>,
}

impl State {
    /// Returns the last position of the last run.
    fn end(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.end)
    }
}

/// The part of a run that is in memory.
struct Run {
    /// Position before its first event.
    before: u64,
    /// Position of its last event.
    end: u64,
    /// The first hash of each chunk.
    firsts: Vec<u32>,
    /// The filter of the run's hashes. `None` if building it failed: then each lookup reads the run.
    filter: Option<BinaryFuse8>,
}

impl Run {
    fn new(before: u64, end: u64, entries: &[u64]) -> Self {
        let mut hashes: Vec<u64> = entries.iter().map(|entry| entry >> 32).collect();
        hashes.dedup();
        let firsts = entries.chunks(ENTRIES_PER_CHUNK).filter_map(|chunk| chunk.first());
        Self {
            before,
            end,
            firsts: firsts.map(|entry| hash_of(*entry)).collect(),
            filter: BinaryFuse8::try_from(&hashes).ok(),
        }
    }

    /// Returns the chunks that may hold an id of this hash.
    fn chunks_of(&self, hash: u32) -> std::ops::Range<usize> {
        if self.filter.as_ref().is_some_and(|filter| !filter.contains(&u64::from(hash))) {
            return 0..0;
        }
        let end = self.firsts.partition_point(|first| *first <= hash);
        let begin = self.firsts.partition_point(|first| *first < hash);
        // The entries of the hash may begin in the chunk before.
        begin.saturating_sub(1)..end
    }
}

impl Ids {
    /// Loads the index of a log with events up to `head`: the runs from the tree, the rest from the events.
    ///
    /// # Errors
    /// If a run or an event is damaged or cannot be read.
    pub(super) fn load(reader: &Reader, head: u64, run_events: u64) -> Result<Self, LogError> {
        let state = State { runs: runs(&reader.tree)?, recent: BTreeSet::new() };
        let end = state.end();
        if end > head {
            let reason = format!("the id index ends at position {end}, the log at {head}");
            return Err(LogError::corrupt(LogPart::IdIndex, reason));
        }
        let ids = Self { run_events: run_events.max(1), state: RwLock::new(state) };
        let mut found = Vec::new();
        reader.scan(end, head, &mut |view| {
            found.push((view.id, view.position));
            if found.len() as u64 >= ids.run_events {
                ids.add(&reader.tree, found.drain(..))?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        ids.add(&reader.tree, found.into_iter())?;
        Ok(ids)
    }

    /// Adds the newest events, which are in the tree. Writes a run if it is complete.
    pub(super) fn add(&self, tree: &Tree, new: impl Iterator<Item = (EventId, u64)>) -> Result<(), LogError> {
        let mut state = self.write();
        let before = state.end();
        for (id, position) in new {
            let offset = u32::try_from(position - before).map_err(|_| {
                LogError::Invalid("the append has more events than the id index can hold".to_owned())
            })?;
            state.recent.insert(entry(hash(id), offset));
        }
        let count = state.recent.len() as u64;
        if count < self.run_events {
            return Ok(());
        }
        drop(state);
        // Readers continue meanwhile; there is no other writer.
        let entries: Vec<u64> = self.read().recent.iter().copied().collect();
        let end = before + count;
        write_run(tree, end, &entries)?;
        let run = Run::new(before, end, &entries);
        let mut state = self.write();
        state.runs.push(run);
        let written = std::mem::take(&mut state.recent);
        drop(state);
        // Dropping takes a while; readers need not wait for it.
        drop(written);
        self.merge(tree)
    }

    /// Merges the short runs at the end into a long one, if there are enough.
    fn merge(&self, tree: &Tree) -> Result<(), LogError> {
        let state = self.read();
        let long = self.run_events.saturating_mul(RUNS_MERGED as u64);
        let short = state.runs.iter().rev().take_while(|run| run.end - run.before < long).count();
        if short < RUNS_MERGED {
            return Ok(());
        }
        let merged: Vec<(u64, u64, usize)> =
            state.runs.iter().rev().take(short).map(|run| (run.before, run.end, run.firsts.len())).collect();
        drop(state);
        let (Some((before, ..)), Some((_, end, _))) = (merged.last(), merged.first()) else { return Ok(()) };
        let mut entries = Vec::new();
        let mut batch = Batch::default();
        for (run_before, run_end, chunks) in &merged {
            // An offset fits in its half of the entry: a long run has 16 short ones.
            entries.extend(read_run(tree, *run_end)?.into_iter().map(|entry| entry + (run_before - before)));
            for chunk in (0..=u16::MAX).take(*chunks) {
                batch.remove(&keys::id_chunk(*run_end, chunk));
            }
        }
        entries.sort_unstable();
        insert_run(&mut batch, *end, &entries);
        let run = Run::new(*before, *end, &entries);
        // A reader must not look for a run that is gone.
        let mut state = self.write();
        tree.apply_batch(batch).map_err(read_error)?;
        let kept = state.runs.len() - short;
        state.runs.truncate(kept);
        state.runs.push(run);
        Ok(())
    }

    /// Returns the positions of candidates for this id.
    pub(super) fn positions(&self, tree: &Tree, id: EventId) -> Result<Vec<u64>, LogError> {
        let hash = hash(id);
        let state = self.read();
        let end = state.end();
        let recent = state.recent.range(entry(hash, 0)..=entry(hash, u32::MAX));
        let mut found: Vec<u64> = recent.map(|entry| end + offset_of(*entry)).collect();
        for run in &state.runs {
            for chunk in run.chunks_of(hash) {
                let entries = load_chunk(tree, run.end, chunk)?;
                let of_hash = entries.into_iter().filter(|entry| hash_of(*entry) == hash);
                found.extend(of_hash.map(|entry| run.before + offset_of(entry)));
            }
        }
        Ok(found)
    }

    /// Returns the event with this id, if its position is at most `head`.
    pub(super) fn find(&self, reader: &Reader, id: EventId, head: u64) -> Result<Option<Recorded>, LogError> {
        for position in self.positions(&reader.tree, id)? {
            if position > head {
                continue;
            }
            let recorded = reader.event(position)?;
            if recorded.event.id == id {
                return Ok(Some(recorded));
            }
        }
        Ok(None)
    }

    /// Returns the number of entries up to `head`, reading the whole index.
    pub(super) fn count(&self, tree: &Tree, head: u64) -> Result<u64, LogError> {
        let mut count = 0;
        let mut counted = 0;
        loop {
            // One run at a time, so that the writer can continue. It may merge runs that are already counted.
            let state = self.read();
            let within = |position: u64| counted < position && position <= head;
            let Some(run) = state.runs.iter().find(|run| run.end > counted) else {
                let recent = state.recent.iter().filter(|entry| within(state.end() + offset_of(**entry)));
                return Ok(count + recent.count() as u64);
            };
            let entries = read_run(tree, run.end)?;
            count += entries.iter().filter(|entry| within(run.before + offset_of(**entry))).count() as u64;
            counted = run.end;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the runs of a tree, in order.
fn runs(tree: &Tree) -> Result<Vec<Run>, LogError> {
    let mut runs: Vec<Run> = Vec::new();
    loop {
        let before = runs.last().map_or(0, |run| run.end);
        let next = tree.range(keys::id_chunk(before + 1, 0)..=keys::id_chunk(u64::MAX, u16::MAX)).next();
        let Some(entry) = next else { return Ok(runs) };
        let (key, _) = entry.map_err(read_error)?;
        let (end, _) = keys::parse_id_chunk(&key).ok_or_else(|| {
            LogError::corrupt(LogPart::IdIndex, format!("invalid key of an id chunk: {key:02x?}"))
        })?;
        let entries = read_run(tree, end)?;
        if entries.len() as u64 != end - before {
            let (count, first) = (entries.len(), before + 1);
            return Err(damaged(end, &format!("{count} entries for the events {first} to {end}")));
        }
        runs.push(Run::new(before, end, &entries));
    }
}

/// Returns the entries of a run, in order.
fn read_run(tree: &Tree, end: u64) -> Result<Vec<u64>, LogError> {
    let mut entries = Vec::new();
    for (expected, chunk) in tree.range(keys::id_chunk(end, 0)..=keys::id_chunk(end, u16::MAX)).enumerate() {
        let (key, value) = chunk.map_err(read_error)?;
        if keys::parse_id_chunk(&key).is_none_or(|(_, found)| usize::from(found) != expected) {
            return Err(damaged(end, &format!("chunk {expected} is missing")));
        }
        let chunk = parse(&key, &value).map_err(|what| damaged(end, &format!("chunk {expected}: {what}")))?;
        entries.extend(chunk);
    }
    if entries.is_sorted() { Ok(entries) } else { Err(damaged(end, "the chunks are not in order")) }
}

fn load_chunk(tree: &Tree, end: u64, chunk: usize) -> Result<Vec<u64>, LogError> {
    let missing = || damaged(end, &format!("chunk {chunk} is missing"));
    let key = keys::id_chunk(end, u16::try_from(chunk).map_err(|_| missing())?);
    let value = tree.get(key).map_err(read_error)?.ok_or_else(missing)?;
    parse(&key, &value).map_err(|what| damaged(end, &format!("chunk {chunk}: {what}")))
}

fn write_run(tree: &Tree, end: u64, entries: &[u64]) -> Result<(), LogError> {
    let mut batch = Batch::default();
    insert_run(&mut batch, end, entries);
    tree.apply_batch(batch).map_err(read_error)
}

fn insert_run(batch: &mut Batch, end: u64, entries: &[u64]) {
    for (chunk, entries) in (0..=u16::MAX).zip(entries.chunks(ENTRIES_PER_CHUNK)) {
        let payload: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let key = keys::id_chunk(end, chunk);
        batch.insert(&key, record::frame(&key, &payload));
    }
}

fn parse(key: &[u8], value: &[u8]) -> Result<Vec<u64>, String> {
    let payload = record::unframe(key, value)?;
    let (entries, rest) = payload.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() || entries.is_empty() {
        return Err("the length is wrong".to_owned());
    }
    Ok(entries.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
}

fn damaged(end: u64, what: &str) -> LogError {
    let reason = format!("the run of the id index that ends at position {end}: {what}");
    LogError::corrupt(LogPart::IdIndex, reason)
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::NewEvent;
    use dissent_domain::id::ExperimentId;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const PER_RUN: u64 = 700;

    fn reader() -> Reader {
        Reader { tree: (*sled::Config::new().temporary(true).open().unwrap()).clone() }
    }

    fn id(number: u64) -> EventId {
        EventId(Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_le_bytes()))
    }

    fn recorded(position: u64) -> Recorded {
        let event = NewEvent {
            id: id(position),
            causation: None,
            actor: String::new(),
            time_us: 0,
            event_type: String::new(),
            schema_version: 1,
            body: Vec::new(),
        };
        Recorded { position, experiment: ExperimentId::new("a").unwrap(), version: position, event }
    }

    /// Commits events, then adds their ids.
    fn add(ids: &Ids, reader: &Reader, positions: std::ops::RangeInclusive<u64>) {
        let events: Vec<_> = positions.map(recorded).collect();
        for (key, value) in record::encode(&events).unwrap() {
            reader.tree.insert(key, value).unwrap();
        }
        ids.add(&reader.tree, events.iter().map(|event| (event.event.id, event.position))).unwrap();
    }

    fn filled(events: u64) -> (Reader, Ids) {
        let reader = reader();
        let ids = Ids::load(&reader, 0, PER_RUN).unwrap();
        for first in (1..=events).step_by(100) {
            add(&ids, &reader, first..=(first + 99).min(events));
        }
        (reader, ids)
    }

    fn assert_whole(ids: &Ids, reader: &Reader, events: u64) {
        for number in 1..=events {
            assert_eq!(ids.positions(&reader.tree, id(number)).unwrap(), [number]);
        }
        assert!(ids.positions(&reader.tree, id(events + 1)).unwrap().is_empty());
        assert_eq!(ids.count(&reader.tree, events).unwrap(), events);
    }

    fn ends(ids: &Ids) -> Vec<u64> {
        ids.read().runs.iter().map(|run| run.end).collect()
    }

    #[test]
    fn runs_lost_in_a_crash_are_rebuilt_from_the_events() {
        let (reader, ids) = filled(2000);
        assert_eq!(ends(&ids), [700, 1400]);
        for chunk in 0..2 {
            reader.tree.remove(keys::id_chunk(1400, chunk)).unwrap().unwrap();
        }
        for run_events in [PER_RUN, 300] {
            let ids = Ids::load(&reader, 2000, run_events).unwrap();
            assert_whole(&ids, &reader, 2000);
        }
        let ids = Ids::load(&reader, 2000, PER_RUN).unwrap();
        assert_eq!(ends(&ids), [700, 1400, 1700, 2000], "runs of any length are read");
        add(&ids, &reader, 2001..=2700);
        assert_eq!(ends(&ids).last(), Some(&2700));
        assert_whole(&ids, &reader, 2700);
    }

    #[test]
    fn short_runs_become_long_ones() {
        let short = PER_RUN / RUNS_MERGED as u64;
        let reader = reader();
        let ids = Ids::load(&reader, 0, short).unwrap();
        let long = short * RUNS_MERGED as u64;
        for run in 0..2 * RUNS_MERGED as u64 + 2 {
            add(&ids, &reader, run * short + 1..=(run + 1) * short);
        }
        let expected = [long, 2 * long, 2 * long + short, 2 * long + 2 * short];
        assert_eq!(ends(&ids), expected);
        assert_whole(&ids, &reader, 2 * long + 2 * short);
        let chunks = |end| reader.tree.range(keys::id_chunk(end, 0)..=keys::id_chunk(end, u16::MAX)).count();
        assert_eq!(chunks(short), 0, "merged runs are removed");
        let opened = Ids::load(&reader, 2 * long + 2 * short, short).unwrap();
        assert_eq!(ends(&opened), expected);
        assert_whole(&opened, &reader, 2 * long + 2 * short);
    }

    #[test]
    fn readers_find_every_id_while_runs_are_merged() {
        let reader = reader();
        let ids = Ids::load(&reader, 0, 10).unwrap();
        add(&ids, &reader, 1..=100);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        for number in [1, 50, 100] {
                            assert_eq!(ids.positions(&reader.tree, id(number)).unwrap(), [number]);
                        }
                        assert_eq!(ids.count(&reader.tree, 100).unwrap(), 100);
                    }
                });
            }
            for first in (101..3_000).step_by(10) {
                add(&ids, &reader, first..=first + 9);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(ends(&ids).len() < 40, "{:?}", ends(&ids));
    }

    #[test]
    fn a_count_stops_at_the_given_head() {
        let (reader, ids) = filled(2000);
        for head in [0, 1, 700, 701, 1999] {
            assert_eq!(ids.count(&reader.tree, head).unwrap(), head);
        }
    }

    /// A part of the expected error, and the tampering that causes it.
    type Tampering<'a> = (&'a str, &'a dyn Fn(&Tree));

    #[test]
    fn damaged_runs_are_errors_that_name_the_damage() {
        let cut = |payload: &mut Vec<u8>| payload.truncate(payload.len() - 8);
        let swap = |payload: &mut Vec<u8>| payload.rotate_left(8);
        let tampering: [Tampering<'_>; 5] = [
            ("chunk 0 is missing", &|tree| drop(tree.remove(keys::id_chunk(1400, 0)).unwrap())),
            ("512 entries for the events 701 to 1400", &|tree| {
                drop(tree.remove(keys::id_chunk(1400, 1)).unwrap());
            }),
            ("699 entries", &|tree| rewrite(tree, keys::id_chunk(1400, 1), cut)),
            ("the chunks are not in order", &|tree| rewrite(tree, keys::id_chunk(1400, 0), swap)),
            ("chunk 1: the checksum", &|tree| {
                let mut value = tree.get(keys::id_chunk(1400, 1)).unwrap().unwrap().to_vec();
                value[50] ^= 1;
                tree.insert(keys::id_chunk(1400, 1), value).unwrap();
            }),
        ];
        for (expected, tamper) in tampering {
            let (reader, _) = filled(2000);
            tamper(&reader.tree);
            let message = Ids::load(&reader, 2000, PER_RUN).err().unwrap().to_string();
            assert!(message.contains("ends at position 1400") && message.contains(expected), "{message}");
        }
        let (reader, _) = filled(2000);
        let message = Ids::load(&reader, 1000, PER_RUN).err().unwrap().to_string();
        assert!(message.contains("ends at position 1400, the log at 1000"), "{message}");
    }

    fn rewrite(tree: &Tree, key: [u8; keys::NUMBERED_BYTES], change: impl Fn(&mut Vec<u8>)) {
        let value = tree.get(key).unwrap().unwrap();
        let mut payload = record::unframe(&key, &value).unwrap().to_vec();
        change(&mut payload);
        tree.insert(key, record::frame(&key, &payload)).unwrap();
    }

    #[test]
    fn all_ids_with_equal_hashes_are_found() {
        let entries: Vec<u64> = [(3, 400), (5, 2000), (6, 1), (9, 700)]
            .into_iter()
            .flat_map(|(hash, count)| (0..count).map(move |offset| entry(hash, offset)))
            .collect();
        let mut run = Run::new(0, entries.len() as u64, &entries);
        for _ in 0..2 {
            for hash in [3, 5, 6, 9] {
                let chunks = entries.chunks(ENTRIES_PER_CHUNK).collect::<Vec<_>>();
                let looked_at = chunks[run.chunks_of(hash)].concat();
                let count = |entries: &[u64]| entries.iter().filter(|entry| hash_of(**entry) == hash).count();
                assert_eq!(count(&looked_at), count(&entries), "hash {hash}");
            }
            run.filter = None;
        }
    }

    #[test]
    fn the_filter_avoids_most_reads() {
        let (_, ids) = filled(1400);
        let looks = |numbers: std::ops::Range<u64>| {
            let state = ids.read();
            let hashes: Vec<u32> = numbers.map(|number| hash(id(number))).collect();
            let asked = |run: &Run| hashes.iter().filter(|hash| !run.chunks_of(**hash).is_empty()).count();
            state.runs.iter().map(asked).sum::<usize>()
        };
        assert!(looks(701..1401) >= 700, "existing ids are read");
        assert!(looks(100_000..110_000) < 200, "of 20 000");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn every_id_is_found_after_any_sequence_of_commits(
            commits in prop::collection::vec(1..400_u64, 1..12),
            run_events in prop::sample::select(vec![7, 60, PER_RUN]),
            opened_with in prop::sample::select(vec![7, 60, PER_RUN]),
        ) {
            let reader = reader();
            let ids = Ids::load(&reader, 0, run_events).unwrap();
            let mut events = 0;
            for commit in commits {
                add(&ids, &reader, events + 1..=events + commit);
                events += commit;
            }
            assert_whole(&ids, &reader, events);
            assert_whole(&Ids::load(&reader, events, opened_with).unwrap(), &reader, events);
        }

        #[test]
        fn parsing_any_bytes_is_an_error(bytes: Vec<u8>) {
            prop_assert!(parse(&keys::id_chunk(1, 0), &bytes).is_err());
        }
    }
}
