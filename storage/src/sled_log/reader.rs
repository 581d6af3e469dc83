//! Reads of the tree: events by position, stream and id, each checked when it is read.

use std::ops::ControlFlow;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{LogError, LogPart};
use sled::{IVec, Tree};

use super::error::{damaged, guarded, read_error};
use super::record::{self, EventView};
use super::{keys, streams};

/// A view of the tree. It ignores durability: callers bound their reads.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) tree: Tree,
}

impl Reader {
    /// Passes the events after `after` up to `to`, in order, to `visit`.
    pub(super) fn scan(
        &self,
        after: u64,
        to: u64,
        visit: &mut dyn FnMut(EventView<'_>) -> Result<ControlFlow<()>, LogError>,
    ) -> Result<(), LogError> {
        if after >= to {
            return Ok(());
        }
        let mut next = self.block_of(after + 1)?.unwrap_or(after + 1);
        let mut entries =
            Entries { inner: self.tree.range(keys::event(next, 0)..=keys::event(to, u16::MAX)) };
        while next <= to {
            let first = next;
            let value = entries.part(first, 0)?;
            let block = record::assemble(first, unframe(first, 0, &value)?, |part| {
                let value = entries.part(first, part)?;
                unframe(first, part, &value).map(<[u8]>::to_vec)
            })?;
            for record in record::records(first, &block) {
                let (position, record) = record?;
                next = position + 1;
                if position <= after {
                    continue;
                }
                if position > to || visit(record::decode(position, record)?)?.is_break() {
                    return Ok(());
                }
            }
            if next == first || next <= after {
                return Err(damaged(next.max(after + 1), "the record is missing"));
            }
        }
        Ok(())
    }

    /// Returns the event at `position`.
    pub(super) fn event(&self, position: u64) -> Result<Recorded, LogError> {
        let missing = || damaged(position, "the record is missing");
        let first = self.block_of(position)?.ok_or_else(missing)?;
        self.block(first, |block| {
            for record in record::records(first, block) {
                let (at, record) = record?;
                if at == position {
                    return record::decode(position, record)?.to_recorded();
                }
            }
            Err(missing())
        })
    }

    /// Returns the first position of the last block that begins at or before a position. That block holds the
    /// event at the position, if it exists.
    fn block_of(&self, position: u64) -> Result<Option<u64>, LogError> {
        let below = keys::event(position.saturating_add(1), 0);
        let Some((key, _)) = self.tree.get_lt(below).map_err(read_error)? else { return Ok(None) };
        Ok(keys::parse_event(&key).map(|(first, _)| first))
    }

    /// Passes the block that begins at `first` to `read`.
    fn block<T>(&self, first: u64, read: impl FnOnce(&[u8]) -> Result<T, LogError>) -> Result<T, LogError> {
        let part = |part| {
            let value = self.tree.get(keys::event(first, part)).map_err(read_error)?;
            value.ok_or_else(|| damaged(first, &format!("part {part} of the record is missing")))
        };
        let value = part(0)?;
        let block = record::assemble(first, unframe(first, 0, &value)?, |index| {
            let value = part(index)?;
            unframe(first, index, &value).map(<[u8]>::to_vec)
        })?;
        read(&block)
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
        let positions = streams::positions(&self.tree, experiment, first);
        for (version, position) in (first..).zip(positions).take(limit) {
            let position = position?;
            if position > head {
                break;
            }
            let recorded = self.event(position)?;
            if recorded.version != version || recorded.experiment != *experiment {
                let reason = format!("wrong index entry for version {version} of {experiment}");
                return Err(LogError::corrupt(LogPart::StreamIndex, reason));
            }
            events.push(recorded);
        }
        Ok(events)
    }

    /// Returns the last position in the tree; 0 if there is no event.
    pub(super) fn last_position(&self) -> Result<u64, LogError> {
        let Some(entry) = self.tree.scan_prefix(keys::EVENTS).next_back() else { return Ok(0) };
        let (key, _) = entry.map_err(read_error)?;
        let (first, _) = keys::parse_event(&key)
            .ok_or_else(|| LogError::corrupt(LogPart::Events, "invalid key of the last event"))?;
        self.last_of_block(first)
    }

    fn last_of_block(&self, first: u64) -> Result<u64, LogError> {
        self.block(first, |block| {
            let mut last = first;
            for record in record::records(first, block) {
                last = record?.0;
            }
            Ok(last)
        })
    }

    /// Returns the first position in the tree after `after`, if there is one.
    pub(super) fn next_position(&self, after: u64) -> Result<Option<u64>, LogError> {
        let wanted = after.saturating_add(1);
        if let Some(first) = self.block_of(wanted)? {
            // An unreadable block counts as its first event only.
            let last = guarded(|| self.last_of_block(first)).unwrap_or(first);
            if last >= wanted {
                return Ok(Some(wanted));
            }
        }
        let range = keys::event(wanted, 0)..=keys::event(u64::MAX, u16::MAX);
        let Some(entry) = self.tree.range(range).next() else { return Ok(None) };
        let key = entry.map_err(read_error)?.0;
        let found = keys::parse_event(&key)
            .ok_or_else(|| LogError::corrupt(LogPart::Events, format!("invalid event key: {key:02x?}")))?;
        Ok(Some(found.0))
    }

    /// Returns every subscription's cursor.
    pub(super) fn cursors(&self) -> Result<Vec<(String, Vec<u8>)>, LogError> {
        let mut cursors = Vec::new();
        for entry in self.tree.scan_prefix(keys::CURSORS) {
            let (key, value) = entry.map_err(read_error)?;
            let name = key.get(keys::CURSORS.len()..).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            let record = record::unframe(&key, &value).map_err(|what| {
                let reason = format!("the cursor of subscription {name:?}: {what}");
                LogError::corrupt(LogPart::Subscription, reason)
            })?;
            cursors.push((name, record.to_vec()));
        }
        Ok(cursors)
    }
}

/// The entries of a range. Each must be the one that is expected next.
struct Entries {
    inner: sled::Iter,
}

impl Entries {
    fn part(&mut self, position: u64, part: u16) -> Result<IVec, LogError> {
        let missing = || damaged(position, &format!("part {part} of the record is missing"));
        let (key, value) = self.inner.next().ok_or_else(missing)?.map_err(read_error)?;
        match keys::parse_event(&key) {
            Some(found) if found == (position, part) => Ok(value),
            _ => Err(missing()),
        }
    }
}

fn unframe(position: u64, part: u16, value: &[u8]) -> Result<&[u8], LogError> {
    record::unframe(&keys::event(position, part), value)
        .map_err(|what| damaged(position, &format!("part {part} of the record: {what}")))
}
