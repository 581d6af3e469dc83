//! The appends of one commit, and their replies.

use std::collections::HashMap;

use dissent_domain::event::{EventId, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, LogError};
use tokio::sync::oneshot;

use super::error::guarded;
use super::shared::Shared;
use super::{record, streams, tail};
use crate::memory::check_version;

/// The channel for an append's outcome.
pub(super) type Reply = oneshot::Sender<Result<Vec<Recorded>, LogError>>;

/// One event of a reply.
enum CommitReply {
    /// The new event at this index of the commit.
    New(usize),
    /// An event that the log already has.
    Existing(Box<Recorded>),
}

struct Pending {
    reply: Reply,
    replies: Result<Vec<CommitReply>, LogError>,
}

/// Appends that will become durable together.
pub(super) struct Group<'a> {
    shared: &'a Shared,
    base: u64,
    pub(super) records: Vec<Recorded>,
    by_id: HashMap<EventId, usize>,
    /// Last versions of the streams that this commit extends.
    pub(super) versions: HashMap<ExperimentId, u64>,
    pending: Vec<Pending>,
    /// Total bytes of bodies in `records`.
    pub(super) body_bytes: usize,
}

/// The encoded writes of a group.
pub(super) struct Encoded {
    pub(super) batch: sled::Batch,
    pub(super) mark: tail::Mark,
    /// A copy of the blocks for the tail file; the indices follow from them. `None` if it exceeds the slot.
    pub(super) redo: Option<Vec<u8>>,
}

impl<'a> Group<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            base: shared.head(),
            records: Vec::new(),
            by_id: HashMap::new(),
            versions: HashMap::new(),
            pending: Vec::new(),
            body_bytes: 0,
        }
    }

    /// Returns the number of appends, accepted or not.
    pub(super) fn appends(&self) -> usize {
        self.pending.len()
    }

    /// Decides an append against the log and the appends before it.
    pub(super) fn add(&mut self, append: Append, reply: Reply) {
        let replies = self.decide(append);
        self.pending.push(Pending { reply, replies });
    }

    fn decide(&mut self, append: Append) -> Result<Vec<CommitReply>, LogError> {
        let mut known = Vec::with_capacity(append.events.len());
        for event in &append.events {
            known.push(self.find(&append.experiment, event)?);
        }
        let version = self.version(&append.experiment);
        if known.iter().any(Option::is_none) {
            check_version(&append, version)?;
        }
        let mut replies = Vec::with_capacity(known.len());
        for (event, known) in append.events.into_iter().zip(known) {
            replies.push(match known {
                Some(existing) => existing,
                // An id that occurs twice in one append is new only once.
                None => match self.by_id.get(&event.id) {
                    Some(&index) => CommitReply::New(index),
                    None => CommitReply::New(self.push(&append.experiment, event)),
                },
            });
        }
        Ok(replies)
    }

    fn find(&self, experiment: &ExperimentId, event: &NewEvent) -> Result<Option<CommitReply>, LogError> {
        if let Some(&index) = self.by_id.get(&event.id) {
            self.records.get(index).into_iter().for_each(|known| warn_if_different(known, experiment, event));
            return Ok(Some(CommitReply::New(index)));
        }
        let known = self.shared.find(event.id, self.base)?;
        Ok(known.map(|known| {
            warn_if_different(&known, experiment, event);
            CommitReply::Existing(Box::new(known))
        }))
    }

    fn version(&self, experiment: &ExperimentId) -> u64 {
        self.versions.get(experiment).copied().unwrap_or_else(|| self.shared.version(experiment))
    }

    fn push(&mut self, experiment: &ExperimentId, event: NewEvent) -> usize {
        let index = self.records.len();
        let version = self.version(experiment) + 1;
        self.versions.insert(experiment.clone(), version);
        self.by_id.insert(event.id, index);
        self.body_bytes += event.body.len();
        self.records.push(Recorded {
            position: self.base + index as u64 + 1,
            experiment: experiment.clone(),
            version,
            event,
        });
        index
    }

    /// Returns the keys and values to write.
    pub(super) fn encode(&self) -> Result<Encoded, LogError> {
        let mut encoded = Encoded {
            batch: sled::Batch::default(),
            mark: tail::Mark { base: self.base, position: self.base + self.records.len() as u64 },
            redo: Some(Vec::with_capacity(self.body_bytes.min(tail::REDO_BYTES_MAX))),
        };
        for (key, value) in record::encode(&self.records)? {
            encoded.redo(&key, &value);
            encoded.batch.insert(&key, value);
        }
        for (key, value) in guarded(|| streams::update(&self.shared.reader.tree, &self.records))? {
            encoded.batch.insert(key, value);
        }
        Ok(encoded)
    }

    /// Replies to every caller.
    pub(super) fn reply(self, outcome: &Result<(), LogError>) {
        for Pending { reply, replies } in self.pending {
            let recorded = outcome.clone().and(replies).map(|replies| {
                let recorded = replies.into_iter().filter_map(|reply| match reply {
                    CommitReply::New(index) => self.records.get(index).cloned(),
                    CommitReply::Existing(recorded) => Some(*recorded),
                });
                recorded.collect()
            });
            // The caller may have stopped waiting.
            let _gone = reply.send(recorded);
        }
    }
}

impl Encoded {
    fn redo(&mut self, key: &[u8], value: &[u8]) {
        if let Some(redo) = &mut self.redo {
            tail::push_redo(redo, key, value);
            if redo.len() > tail::REDO_BYTES_MAX {
                self.redo = None;
            }
        }
    }
}

/// Ids are derived from causes, so different content under the same id is a bug of the caller. The log keeps
/// the first event: history does not change.
fn warn_if_different(known: &Recorded, experiment: &ExperimentId, event: &NewEvent) {
    let same = known.experiment == *experiment
        && known.event.event_type == event.event_type
        && known.event.body == event.body;
    if !same {
        tracing::warn!(
            event_id = %event.id,
            event_seq = known.position,
            experiment_id = %experiment,
            event_type = event.event_type,
            "ignoring an appended event whose id exists with different content"
        );
    }
}
