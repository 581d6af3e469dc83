//! The keeper's side of a group: resuming from a record, being fed from the log, and the record to store.

use std::collections::BTreeMap;
use std::sync::Arc;

use dissent_domain::event::Recorded;

use super::{Group, Open, ParkedMessage, Phase, Stage};
use crate::embedded::record::{OPEN_MAX, OpenNote, ParkedNote, Record, shortened};

impl Group {
    /// The record to resume from, if that is still to be done.
    pub(in crate::embedded) fn resume_from(&self) -> Option<&Record> {
        if matches!(self.stage, Stage::Running) { self.resume_from.as_ref() } else { None }
    }

    /// Starts with the events that the record speaks of. After a crash, what was in hand is suspect.
    pub(in crate::embedded) fn resume(&mut self, events: &BTreeMap<u64, Arc<Recorded>>) {
        let Some(record) = self.resume_from.take() else { return };
        self.read_to = record.done_to;
        self.suspects_left = if record.in_hand {
            self.members.values().map(|m| m.prefetch).sum::<usize>().min(OPEN_MAX)
        } else {
            0
        };
        for note in record.parked {
            if let Some(event) = events.get(&note.position) {
                let (event, attempts) = (Arc::clone(event), note.attempts);
                let message = ParkedMessage { event, attempts, reason: note.reason, leased: false };
                self.parked.insert(note.position, message);
            }
        }
        for note in record.open {
            // A kind that is no longer subscribed to is done.
            let Some(event) = events.get(&note.position).filter(|event| self.rules.want(event)) else {
                continue;
            };
            let open = self.reopened(note, Arc::clone(event), record.in_hand);
            self.open.insert(note.position, open);
        }
        self.park_spent();
        self.effects.parked |= !self.parked.is_empty();
        self.touch();
        self.wake_members();
    }

    fn reopened(&self, note: OpenNote, event: Arc<Recorded>, crashed: bool) -> Open {
        let limit = self.rules.delivery_limit;
        let phase = if note.attempts >= limit {
            Phase::Spent(format!("the process ended after attempt {} had begun, the last one", note.attempts))
        } else if crashed {
            Phase::Suspect
        } else {
            Phase::Ready
        };
        let alone = phase == Phase::Suspect && note.attempts > 0 && note.attempts + 1 >= limit;
        Open { event, attempts: note.attempts, redelivered: true, alone, phase }
    }

    pub(super) fn has_suspects(&self) -> bool {
        self.open.values().any(|open| open.phase == Phase::Suspect)
    }

    /// Counts attempts of suspects ahead of their delivery; true if the record must be made durable now,
    /// followed by [`finish_count`](Self::finish_count). Those on their last attempt go one by one.
    pub(in crate::embedded) fn begin_count(&mut self) -> bool {
        let mut counting = false;
        let alone = self.open.iter().find(|(_, open)| open.alone).map(|(&position, _)| position);
        for (&position, open) in &mut self.open {
            let its_turn = if open.alone { alone == Some(position) } else { alone.is_none() };
            if its_turn && open.phase == Phase::Suspect {
                open.attempts = open.attempts.saturating_add(1);
                open.phase = Phase::Counting;
                counting = true;
            }
        }
        self.dirty |= counting;
        counting
    }

    /// The counts are durable.
    pub(in crate::embedded) fn finish_count(&mut self) {
        for open in self.open.values_mut() {
            if open.phase == Phase::Counting {
                open.phase = Phase::Counted;
            }
        }
        self.wake_members();
    }

    /// Where to read on, if there is room for a page.
    pub(in crate::embedded) fn wants_after(&self) -> Option<u64> {
        let running = matches!(self.stage, Stage::Running) && self.resume_from.is_none();
        (running && self.fresh.len() < self.fresh_low.max(1)).then_some(self.read_to)
    }

    /// Offers events of the log, without gaps; those that it has seen or that come too early are ignored.
    pub(in crate::embedded) fn feed(&mut self, page: &[Arc<Recorded>]) {
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return };
        if self.wants_after().is_none() || first.position > self.read_to + 1 || last.position <= self.read_to
        {
            return;
        }
        let seen = page.partition_point(|event| event.position <= self.read_to);
        for event in &page[seen..] {
            if !self.rules.want(event) {
                continue;
            }
            let event = Arc::clone(event);
            if self.suspects_left > 0 && self.open.len() < OPEN_MAX {
                self.suspects_left -= 1;
                let (attempts, phase) = (0, Phase::Suspect);
                let open = Open { event, attempts, redelivered: true, alone: false, phase };
                self.open.insert(open.event.position, open);
            } else {
                self.fresh.push_back(event);
            }
        }
        self.read_to = last.position;
        self.touch();
        self.wake_members();
    }

    /// Everything up to here is done or open.
    pub(super) fn done_to(&self) -> u64 {
        self.fresh.front().map_or(self.read_to, |event| event.position - 1)
    }

    /// The record to store, if it changed since the last call.
    pub(in crate::embedded) fn changed_record(&mut self) -> Option<Record> {
        let changed = std::mem::take(&mut self.dirty);
        (changed && self.resume_from.is_none()).then(|| self.record())
    }

    fn record(&self) -> Record {
        let open = self.open.iter().map(|(&position, open)| OpenNote { position, attempts: open.attempts });
        let parked = self.parked.iter().map(|(&position, message)| ParkedNote {
            position,
            attempts: message.attempts,
            reason: shortened(&message.reason),
        });
        Record {
            done_to: self.done_to(),
            in_hand: !(matches!(self.stage, Stage::Closed) && self.is_idle()),
            open: open.collect(),
            parked: parked.collect(),
        }
    }

    pub(in crate::embedded) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Nothing is in hand.
    pub(in crate::embedded) fn is_idle(&self) -> bool {
        !self.open.values().any(|open| matches!(open.phase, Phase::Leased))
            && !self.parked.values().any(|message| message.leased)
    }
}
