//! A queue of events, and the record of its filling in the log.

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;

use super::identity::PROTOCOL;
use super::topology::{Topology, binding_key, experiment_key};
use crate::broker::Subscription;
use crate::error::BrokerError;

const FORMAT: u8 = 2;
/// The format byte, the completeness, the limit and the epoch.
const HEAD_BYTES: usize = 14;

/// A queue of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventQueue {
    pub queue: String,
    /// Name of the queue's record in the log.
    pub record: String,
    pub experiment: Option<ExperimentId>,
    /// Names of the event types in the queue; `None` for all types.
    kinds: Option<Vec<&'static str>>,
    pub bindings: Vec<String>,
    /// Whether the queue is the stream of an experiment's history.
    pub stream: bool,
}

impl EventQueue {
    pub(super) fn of_group(
        topology: &Topology,
        prefix: &str,
        subscription: &Subscription,
    ) -> Result<Self, BrokerError> {
        let kinds: Vec<&'static str> = subscription.kinds.iter().map(|kind| kind.name()).collect();
        let of = subscription.experiment.as_ref();
        Ok(Self {
            queue: topology.group(&subscription.group)?,
            record: format!("filled{PROTOCOL}.{prefix}.{}", subscription.group),
            experiment: subscription.experiment.clone(),
            bindings: kinds.iter().map(|kind| binding_key(of, kind)).collect(),
            kinds: Some(kinds),
            stream: false,
        })
    }

    pub(super) fn of_history(topology: &Topology, prefix: &str, experiment: &ExperimentId) -> Self {
        let key = experiment_key(experiment);
        Self {
            queue: topology.history(experiment),
            record: format!("filled{PROTOCOL}.{prefix}.history.{key}"),
            experiment: Some(experiment.clone()),
            kinds: None,
            bindings: vec![format!("{key}.#")],
            stream: true,
        }
    }

    pub(super) fn wants(&self, event: &Recorded) -> bool {
        let of_experiment = self.experiment.as_ref().is_none_or(|wanted| *wanted == event.experiment);
        let of_kind = |kinds: &Vec<&str>| kinds.contains(&event.event.event_type.as_str());
        of_experiment && self.kinds.as_ref().is_none_or(of_kind)
    }
}

/// The record of a queue's filling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FillRecord {
    /// Whether the queue got every event that the relay had passed.
    pub complete: bool,
    /// The limit of redeliveries with which it was declared; 0 for a stream.
    pub limit: u32,
    /// The start since which only this log was published to it.
    pub epoch: u64,
    /// The keys by which it was bound.
    pub bindings: Vec<String>,
}

impl FillRecord {
    pub(super) fn incomplete() -> Self {
        Self { complete: false, limit: 0, epoch: 0, bindings: Vec::new() }
    }

    pub(super) fn encoded(&self) -> Vec<u8> {
        let mut record = vec![FORMAT, u8::from(self.complete)];
        record.extend_from_slice(&self.limit.to_le_bytes());
        record.extend_from_slice(&self.epoch.to_le_bytes());
        record.extend_from_slice(self.bindings.join("\n").as_bytes());
        record
    }

    /// Reads a record. An unknown record counts as incomplete: the queue is filled again, which is harmless.
    pub(super) fn read(record: Option<&[u8]>) -> Self {
        record.and_then(Self::decoded).unwrap_or_else(Self::incomplete)
    }

    fn decoded(record: &[u8]) -> Option<Self> {
        let (head, bindings) = record.split_at_checked(HEAD_BYTES)?;
        let [FORMAT, 1, numbers @ ..] = head else { return None };
        let (limit, epoch) = numbers.split_at_checked(size_of::<u32>())?;
        Some(Self {
            complete: true,
            limit: u32::from_le_bytes(limit.try_into().ok()?),
            epoch: u64::from_le_bytes(epoch.try_into().ok()?),
            bindings: std::str::from_utf8(bindings).ok()?.lines().map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_unknown_bytes_are_incomplete() {
        let bindings = vec!["a.b".to_owned(), "*.c".to_owned()];
        let full = FillRecord { complete: true, limit: 32, epoch: 7, bindings };
        assert_eq!(FillRecord::read(Some(&full.encoded())), full);
        assert_eq!(FillRecord::read(Some(&FillRecord::incomplete().encoded())), FillRecord::incomplete());
        let mut damaged = full.encoded();
        damaged.push(0xff);
        for other in [None, Some(&[][..]), Some(&[FORMAT, 1][..]), Some(&[9; 14][..]), Some(&damaged[..])] {
            assert_eq!(FillRecord::read(other), FillRecord::incomplete(), "{other:?}");
        }
    }
}
