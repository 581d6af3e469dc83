//! The I/O thread's side of a group: resuming from a record, taking events from the log, and the record to
//! store.

use std::collections::BTreeMap;
use std::sync::Arc;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;

use super::{Group, Lifecycle, Origin, ParkedMessage, Phase, Unfinished};
use crate::embedded::page::Page;
use crate::embedded::record::{OpenNote, ParkedNote, Record, shortened};

/// Maximum number of positions that a stored record may lag behind while no message is touched.
const UNSTORED_MAX: u64 = 4096;

impl Group {
    /// Returns the progress to resume from, if the group has not resumed yet.
    pub(in crate::embedded) fn origin(&self) -> Option<&Origin> {
        if matches!(self.lifecycle, Lifecycle::Running) { self.origin.as_ref() } else { None }
    }

    /// Starts from a record with the events that it names. Unfinished messages are redelivered at once.
    pub(in crate::embedded) fn resume(&mut self, record: Record, events: &BTreeMap<u64, Arc<Recorded>>) {
        if self.origin.take().is_none() {
            return;
        }
        (self.read_to, self.stored_to) = (record.done_to, record.done_to);
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
        let running = matches!(self.lifecycle, Lifecycle::Running) && self.origin.is_none();
        (running && self.fresh.len() < self.fresh_low.max(1)).then_some(self.read_to)
    }

    /// Returns the experiment of the group, and the number of its events up to the position that was read,
    /// if known.
    pub(in crate::embedded) fn stream(&self) -> Option<(ExperimentId, Option<u64>)> {
        self.rules.experiment.clone().map(|experiment| (experiment, self.version))
    }

    /// Adds a page. Ignores events that the group has read, pages that leave a gap, and streams of other
    /// experiments.
    pub(in crate::embedded) fn feed(&mut self, page: &Page) {
        let of_group = page.experiment.is_none() || page.experiment == self.rules.experiment;
        if !of_group || self.wants_after().is_none() || page.after > self.read_to || page.to <= self.read_to {
            return;
        }
        let seen = page.events.partition_point(|event| event.position <= self.read_to);
        let mut found = false;
        for event in &page.events[seen..] {
            if self.rules.experiment.as_ref() == Some(&event.experiment) {
                self.version = Some(event.version);
            }
            if self.rules.want(event) {
                self.fresh.push_back(Arc::clone(event));
                found = true;
            }
        }
        self.read_to = page.to;
        // Events that were only passed are cheap to read again, so their record is stored rarely.
        if self.done_to().saturating_sub(self.stored_to) >= UNSTORED_MAX {
            self.touch();
        }
        if found {
            self.wake_members();
        }
    }

    /// Every message up to this position is done or unfinished.
    pub(super) fn done_to(&self) -> u64 {
        self.fresh.front().map_or(self.read_to, |event| event.position - 1)
    }

    /// Returns the record to store, if it changed since the last call.
    pub(in crate::embedded) fn changed_record(&mut self) -> Option<Record> {
        std::mem::take(&mut self.dirty).then(|| self.stored())
    }

    /// Returns the last record to store, if it differs from the stored one.
    pub(in crate::embedded) fn final_record(&mut self) -> Option<Record> {
        self.dirty |= self.origin.is_none() && self.done_to() != self.stored_to;
        self.changed_record()
    }

    /// Returns the record, which the caller stores.
    fn stored(&mut self) -> Record {
        let record = self.record();
        self.stored_to = record.done_to;
        record
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
