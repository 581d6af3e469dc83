//! The I/O thread's side of a group: resuming from a record, taking events from the log, and the record to
//! store.

use std::collections::BTreeMap;
use std::sync::Arc;

use dissent_domain::event::Recorded;

use super::{Group, Lifecycle, ParkedMessage, Phase, Unfinished};
use crate::embedded::record::{OpenNote, ParkedNote, Record, shortened};

impl Group {
    /// Returns the record to resume from, if the group has not resumed yet.
    pub(in crate::embedded) fn resume_from(&self) -> Option<&Record> {
        if matches!(self.lifecycle, Lifecycle::Running) { self.resume_from.as_ref() } else { None }
    }

    /// Starts with the events that the record names. Unfinished messages are redelivered at once.
    pub(in crate::embedded) fn resume(&mut self, events: &BTreeMap<u64, Arc<Recorded>>) {
        let Some(record) = self.resume_from.take() else { return };
        self.read_to = record.done_to;
        for ParkedNote { position, failures, reason } in record.parked {
            if let Some(event) = events.get(&position).cloned() {
                self.parked.insert(position, ParkedMessage { event, failures, reason, leased: false });
            }
        }
        for OpenNote { position, failures } in record.open {
            // A message of a type that is no longer subscribed to is done.
            if let Some(event) = events.get(&position).filter(|event| self.rules.want(event)).cloned() {
                let phase = self.resumed_phase(failures);
                self.open.insert(position, Unfinished { event, failures, redelivered: true, phase });
            }
        }
        self.park_spent();
        self.effects.parked |= !self.parked.is_empty();
        self.wake_members();
    }

    fn resumed_phase(&self, failures: u32) -> Phase {
        if failures < self.rules.delivery_limit {
            Phase::Ready
        } else {
            // The parked messages were full, or the limit was lowered.
            Phase::Spent(format!(
                "the event failed {failures} times before a restart; the reasons were not kept"
            ))
        }
    }

    /// Returns the position to read from, if there is room for a page.
    pub(in crate::embedded) fn wants_after(&self) -> Option<u64> {
        let running = matches!(self.lifecycle, Lifecycle::Running) && self.resume_from.is_none();
        (running && self.fresh.len() < self.fresh_low.max(1)).then_some(self.read_to)
    }

    /// Adds a page of events without gaps. Ignores events that the group has read, and pages that leave a
    /// gap.
    pub(in crate::embedded) fn feed(&mut self, page: &[Arc<Recorded>]) {
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return };
        if self.wants_after().is_none() || first.position > self.read_to + 1 || last.position <= self.read_to
        {
            return;
        }
        let seen = page.partition_point(|event| event.position <= self.read_to);
        for event in &page[seen..] {
            if self.rules.want(event) {
                self.fresh.push_back(Arc::clone(event));
            }
        }
        self.read_to = last.position;
        self.touch();
        self.wake_members();
    }

    /// Every message up to this position is done or unfinished.
    pub(super) fn done_to(&self) -> u64 {
        self.fresh.front().map_or(self.read_to, |event| event.position - 1)
    }

    /// Returns the record to store, if it changed since the last call.
    pub(in crate::embedded) fn changed_record(&mut self) -> Option<Record> {
        std::mem::take(&mut self.dirty).then(|| self.record())
    }

    fn record(&self) -> Record {
        let open = self.open.iter().map(|(&position, open)| OpenNote { position, failures: open.failures });
        let parked = self.parked.iter().map(|(&position, message)| ParkedNote {
            position,
            failures: message.failures,
            reason: shortened(&message.reason),
        });
        Record { done_to: self.done_to(), open: open.collect(), parked: parked.collect() }
    }

    pub(in crate::embedded) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether no delivery is unsettled.
    pub(in crate::embedded) fn is_idle(&self) -> bool {
        !self.open.values().any(|open| matches!(open.phase, Phase::Leased))
            && !self.parked.values().any(|message| message.leased)
    }
}
