//! The index of streams: the position of each event of an experiment.
//!
//! A chunk is a frame with the positions of [`VERSIONS_PER_CHUNK`] consecutive versions, each a little-endian
//! u64. The last chunk of a stream may hold fewer; each commit that extends the stream rewrites it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{LogError, LogPart};
use sled::{IVec, Tree};

use super::error::read_error;
use super::{keys, record};

/// Versions of a chunk: a kilobyte.
const VERSIONS_PER_CHUNK: u64 = 128;

/// Returns the chunk of a version, from 1, and the index in the chunk.
fn place(version: u64) -> (u64, usize) {
    let index = version.saturating_sub(1);
    // It is less than the length of a chunk.
    (index / VERSIONS_PER_CHUNK, usize::try_from(index % VERSIONS_PER_CHUNK).unwrap_or(0))
}

/// Returns the positions of a stream's events from version `first` on.
pub(super) fn positions(
    tree: &Tree,
    experiment: &ExperimentId,
    first: u64,
) -> impl Iterator<Item = Result<u64, LogError>> {
    let (first_chunk, skipped) = place(first);
    let range = keys::stream(experiment, first_chunk)..=keys::stream(experiment, u64::MAX);
    (first_chunk..).zip(tree.range(range)).flat_map(move |(expected, entry)| {
        let skipped = if expected == first_chunk { skipped } else { 0 };
        match chunk_of(experiment, expected, entry) {
            Ok(positions) => positions.into_iter().skip(skipped).map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    })
}

/// Parses an entry of the tree, which must be this chunk of the stream.
fn chunk_of(
    experiment: &ExperimentId,
    expected: u64,
    entry: sled::Result<(IVec, IVec)>,
) -> Result<Vec<u64>, LogError> {
    let (key, value) = entry.map_err(read_error)?;
    match keys::parse_stream(&key) {
        Some((_, found)) if found == expected => {
            parse(&key, &value).map_err(|what| damaged(experiment, expected, &what))
        }
        _ => Err(damaged(experiment, expected, "the chunk is missing")),
    }
}

/// Returns the position of one version; `None` if the stream has no such event.
pub(super) fn position(
    tree: &Tree,
    experiment: &ExperimentId,
    version: u64,
) -> Result<Option<u64>, LogError> {
    let (chunk, place) = place(version);
    Ok(load(tree, experiment, chunk)?.get(place).copied())
}

/// Returns every stream with its last version, in order of name. Costs one look-up for each stream, not for
/// each event.
pub(super) fn last_versions(tree: &Tree) -> Result<Vec<(ExperimentId, u64)>, LogError> {
    let unreadable =
        |key: &[u8]| LogError::corrupt(LogPart::StreamIndex, format!("invalid stream key: {key:02x?}"));
    let mut streams = Vec::new();
    let mut from = keys::STREAMS.to_vec();
    let end = [keys::STREAMS[0] + 1];
    while let Some(entry) = tree.range(from..end.to_vec()).next() {
        let (key, _) = entry.map_err(read_error)?;
        let (experiment, _) = keys::parse_stream(&key).ok_or_else(|| unreadable(&key))?;
        let prefix = keys::stream_prefix(&experiment);
        let last = tree.scan_prefix(&prefix).next_back();
        let (key, value) = last.ok_or_else(|| unreadable(&key))?.map_err(read_error)?;
        let (experiment, chunk) = keys::parse_stream(&key).ok_or_else(|| unreadable(&key))?;
        let held = parse(&key, &value).map_err(|what| damaged(&experiment, chunk, &what))?.len();
        let version = chunk.saturating_mul(VERSIONS_PER_CHUNK).saturating_add(held as u64);
        streams.push((experiment, version));
        from = prefix;
        from.extend_from_slice(&[0xff; 9]);
    }
    Ok(streams)
}

/// Returns the keys and values that add events to the index. The events of each stream must be in order and
/// follow its last one.
pub(super) fn update(tree: &Tree, new: &[Recorded]) -> Result<Vec<keys::KeyValue>, LogError> {
    let mut chunks: BTreeMap<(&ExperimentId, u64), Vec<u64>> = BTreeMap::new();
    for recorded in new {
        let experiment = &recorded.experiment;
        let (chunk, place) = place(recorded.version);
        let positions = match chunks.entry((experiment, chunk)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(load(tree, experiment, chunk)?),
        };
        if positions.len() != place {
            let version = recorded.version;
            return Err(damaged(
                experiment,
                chunk,
                &format!("version {version} does not follow its last version"),
            ));
        }
        positions.push(recorded.position);
    }
    let encoded = chunks.into_iter().map(|((experiment, chunk), positions)| {
        let payload: Vec<u8> = positions.iter().flat_map(|position| position.to_le_bytes()).collect();
        let key = keys::stream(experiment, chunk);
        let value = record::frame(&key, &payload);
        (key, value)
    });
    Ok(encoded.collect())
}

/// Returns all positions of the index.
pub(super) fn all(tree: &Tree) -> impl Iterator<Item = Result<Vec<u64>, LogError>> {
    tree.scan_prefix(keys::STREAMS).map(|chunk| {
        let (key, value) = chunk.map_err(read_error)?;
        parse(&key, &value).map_err(|what| {
            let reason = format!("a chunk of the stream index, {key:02x?}: {what}");
            LogError::corrupt(LogPart::StreamIndex, reason)
        })
    })
}

/// Returns the positions in a chunk; empty if the chunk does not exist.
fn load(tree: &Tree, experiment: &ExperimentId, chunk: u64) -> Result<Vec<u64>, LogError> {
    let key = keys::stream(experiment, chunk);
    let Some(value) = tree.get(&key).map_err(read_error)? else { return Ok(Vec::new()) };
    parse(&key, &value).map_err(|what| damaged(experiment, chunk, &what))
}

fn parse(key: &[u8], value: &[u8]) -> Result<Vec<u64>, String> {
    let payload = record::unframe(key, value)?;
    let (positions, rest) = payload.as_chunks::<8>();
    if !rest.is_empty() || positions.len() as u64 > VERSIONS_PER_CHUNK {
        return Err("the length is wrong".to_owned());
    }
    Ok(positions.iter().map(|position| u64::from_le_bytes(*position)).collect())
}

fn damaged(experiment: &ExperimentId, chunk: u64, what: &str) -> LogError {
    let reason = format!("chunk {chunk} of the index of {experiment}'s events: {what}");
    LogError::corrupt(LogPart::StreamIndex, reason)
}
