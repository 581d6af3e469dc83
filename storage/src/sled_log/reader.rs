//! Reading the tree: events by position, stream and id, each checked as it is read.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dissent_domain::event::{EventId, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::LogError;
use sled::{IVec, Tree};

use super::keys;
use super::record::{self, EventView};

/// A view of the tree. It knows nothing of durability: callers bound what they ask for.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) tree: Tree,
}

impl Reader {
    /// Hands the events after `after` up to `to`, in order, to `visit`.
    pub(super) fn scan(
        &self,
        after: u64,
        to: u64,
        visit: &mut dyn FnMut(EventView<'_>) -> Result<ControlFlow<()>, LogError>,
    ) -> Result<(), LogError> {
        if after >= to {
            return Ok(());
        }
        let range = keys::event(after + 1, 0)..=keys::event(to, u16::MAX);
        let mut entries = Entries { inner: self.tree.range(range) };
        for expected in after + 1..=to {
            let first = entries.part(expected, 0)?;
            let payload = unframe(expected, 0, &first)?;
            let record = record::assemble(expected, payload, |part| {
                let value = entries.part(expected, part)?;
                unframe(expected, part, &value).map(<[u8]>::to_vec)
            })?;
            if visit(record::decode(expected, &record)?)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The event at `position`.
    pub(super) fn event(&self, position: u64) -> Result<Recorded, LogError> {
        let missing = |part| damaged(position, &format!("part {part} of its record is missing"));
        let part = |part| {
            let value = self.tree.get(keys::event(position, part)).map_err(read_error)?;
            value.ok_or_else(|| missing(part))
        };
        let first = part(0)?;
        let payload = unframe(position, 0, &first)?;
        let record = record::assemble(position, payload, |index| {
            let value = part(index)?;
            unframe(position, index, &value).map(<[u8]>::to_vec)
        })?;
        record::decode(position, &record)?.to_recorded()
    }

    /// The event with this id, if its position is at most `head`.
    pub(super) fn find(&self, id: EventId, head: u64) -> Result<Option<Recorded>, LogError> {
        let Some(value) = self.tree.get(keys::id(id)).map_err(read_error)? else { return Ok(None) };
        let position = keys::parse_position(&value).ok_or_else(|| {
            LogError::Corrupt(format!("the index entry of event id {id} is not a position"))
        })?;
        if position > head {
            return Ok(None);
        }
        let recorded = self.event(position)?;
        if recorded.event.id == id {
            return Ok(Some(recorded));
        }
        Err(damaged(position, &format!("the index says that its id is {id}, it is {}", recorded.event.id)))
    }

    /// Events of a stream after version `after` with positions up to `head`, at most `limit`.
    pub(super) fn stream(
        &self,
        experiment: &ExperimentId,
        after: u64,
        limit: usize,
        head: u64,
    ) -> Result<Vec<Recorded>, LogError> {
        let mut events = Vec::new();
        let Some(first) = after.checked_add(1) else { return Ok(events) };
        let range = keys::stream(experiment, first)..=keys::stream(experiment, u64::MAX);
        for (version, entry) in (first..).zip(self.tree.range(range)).take(limit) {
            let (key, value) = entry.map_err(read_error)?;
            let wrong = || {
                LogError::Corrupt(format!("the index entry of version {version} of {experiment} is wrong"))
            };
            let position = keys::parse_position(&value).ok_or_else(wrong)?;
            if position > head {
                break;
            }
            let recorded = self.event(position)?;
            let found = keys::parse_stream(&key).ok_or_else(wrong)?;
            if found.1 != version || recorded.version != version || recorded.experiment != *experiment {
                return Err(wrong());
            }
            events.push(recorded);
        }
        Ok(events)
    }

    /// The last position in the tree; 0 if there is none.
    pub(super) fn last_position(&self) -> Result<u64, LogError> {
        match self.tree.scan_prefix(keys::EVENTS).next_back() {
            None => Ok(0),
            Some(entry) => {
                let (key, _) = entry.map_err(read_error)?;
                let (position, _) = keys::parse_event(&key)
                    .ok_or_else(|| LogError::Corrupt("the last event's key cannot be read".to_owned()))?;
                Ok(position)
            }
        }
    }

    /// The first position after this one in the tree; none if there is none.
    pub(super) fn next_position(&self, after: u64) -> Result<Option<u64>, LogError> {
        let range = keys::event(after.saturating_add(1), 0)..=keys::event(u64::MAX, u16::MAX);
        let Some(entry) = self.tree.range(range).next() else { return Ok(None) };
        let key = entry.map_err(read_error)?.0;
        let found = keys::parse_event(&key)
            .ok_or_else(|| LogError::Corrupt(format!("an event's key cannot be read: {key:02x?}")))?;
        Ok(Some(found.0))
    }

    /// Every stream with its last version, in order of name: one look-up a stream, not one an event.
    pub(super) fn streams(&self) -> Result<Vec<(ExperimentId, u64)>, LogError> {
        let mut streams = Vec::new();
        let mut from = keys::STREAMS.to_vec();
        let end = [keys::STREAMS[0] + 1];
        while let Some(entry) = self.tree.range(from..end.to_vec()).next() {
            let (experiment, _) = parse_stream(&entry.map_err(read_error)?.0)?;
            let prefix = keys::stream_prefix(&experiment);
            let last = self.tree.scan_prefix(&prefix).next_back();
            let last =
                last.ok_or_else(|| LogError::Corrupt(format!("the stream of {experiment} has no end")))?;
            streams.push(parse_stream(&last.map_err(read_error)?.0)?);
            from = prefix;
            from.extend_from_slice(&[0xff; 9]);
        }
        Ok(streams)
    }

    /// Every subscription's cursor.
    pub(super) fn cursors(&self) -> Result<Vec<(String, Vec<u8>)>, LogError> {
        let mut cursors = Vec::new();
        for entry in self.tree.scan_prefix(keys::CURSORS) {
            let (key, value) = entry.map_err(read_error)?;
            let name = key.get(keys::CURSORS.len()..).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            let record = record::unframe(&key, &value)
                .map_err(|what| LogError::Corrupt(format!("the cursor of subscription {name:?}: {what}")))?;
            cursors.push((name, record.to_vec()));
        }
        Ok(cursors)
    }
}

fn parse_stream(key: &[u8]) -> Result<(ExperimentId, u64), LogError> {
    keys::parse_stream(key)
        .ok_or_else(|| LogError::Corrupt(format!("a stream's key cannot be read: {key:02x?}")))
}

/// The event keys of a range, each of which must be the one expected next.
struct Entries {
    inner: sled::Iter,
}

impl Entries {
    fn part(&mut self, position: u64, part: u16) -> Result<IVec, LogError> {
        let missing = || damaged(position, &format!("part {part} of its record is missing"));
        let (key, value) = self.inner.next().ok_or_else(missing)?.map_err(read_error)?;
        match keys::parse_event(&key) {
            Some(found) if found == (position, part) => Ok(value),
            _ => Err(missing()),
        }
    }
}

fn unframe(position: u64, part: u16, value: &[u8]) -> Result<&[u8], LogError> {
    record::unframe(&keys::event(position, part), value)
        .map_err(|what| damaged(position, &format!("part {part} of its record: {what}")))
}

/// Damage at an event.
pub(super) fn damaged(position: u64, what: &str) -> LogError {
    LogError::Corrupt(format!("event {position}: {what}"))
}

/// What sled says while reading.
pub(super) fn read_error(error: sled::Error) -> LogError {
    match error {
        sled::Error::Io(error) => LogError::Io(said_by(&error)),
        sled::Error::Corruption { .. } => {
            LogError::Corrupt("the checksum of a part of its database does not fit".to_owned())
        }
        sled::Error::CollectionNotFound(_) | sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => {
            LogError::Corrupt(error.to_string())
        }
    }
}

/// What the system said; sled may have wrapped it in the form that is meant for programmers.
pub(super) fn said_by(error: &std::io::Error) -> String {
    if error.raw_os_error().is_some() { error.to_string() } else { error.kind().to_string() }
}

/// Runs `work` on sled, which answers some damage with a panic, and makes that an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("nothing");
        Err(LogError::Corrupt(format!("the database gave up on it, saying {said:?}")))
    })
}
